#include "deferred/deferred_job.h"

#include <mutex>
#include <utility>

#include "comm/thread_communicator.h"
#include "deferred/deferred_communicator.h"

namespace switchyard::test {

DeferredRank run_deferred_rank(const RunConfig& config, Communicator& world,
                               const JobOptions& options, const DeferredOptions& deferred) {
  const auto [kind, seed] = deferred.order;
  DeferredBackend backend({kind, seed + static_cast<uint64_t>(world.rank())});
  backend.forget_waits_for(deferred.forgotten);
  DeferredRank rank;
  {
    DeferredCommunicator deferred_world(world, backend);
    rank.result = run_job(config, deferred_world, options, &backend);
  }
  for (const std::string& report : backend.reports())
    rank.reports.push_back(fmt::format("rank {}: {}", world.rank(), report));
  rank.issued = backend.issued();
  return rank;
}

DeferredJob run_deferred_job(const RunConfig& config, int num_ranks, const JobOptions& options,
                             const DeferredOptions& deferred) {
  DeferredJob job;
  IssuedByRank issued(static_cast<size_t>(num_ranks));
  std::mutex mutex;
  run_ranks(num_ranks, [&](Communicator& world) {
    DeferredRank mine = run_deferred_rank(config, world, options, deferred);
    const std::scoped_lock lock(mutex);
    for (const std::string& report : mine.reports) job.reports += report + "\n";
    issued[static_cast<size_t>(world.rank())] = std::move(mine.issued);
    if (world.rank() == 0) job.result = std::move(mine.result);
  });
  job.standstill = find_standstill(issued);
  return job;
}

}  // namespace switchyard::test
