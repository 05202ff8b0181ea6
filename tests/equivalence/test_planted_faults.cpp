// The equivalence proof must fail when the mechanism it proves is broken. Faults are planted in the
// communicators of an otherwise correct job.
#include <list>
#include <mutex>

#include "support/catch.h"
#include "support/training_job.h"
#include "verify/faulty_communicator.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

double difference_with(const Fault& fault, std::string& where, int zero_stage = 0) {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  const JobOptions options = {.steps = 3, .gradient_steps = {1}};
  config.parallelism = {.data_parallel_size = 1, .expert_parallel_size = 1};
  JobResult reference = run_job_on_threads(config, 1, options);
  config.parallelism = {.data_parallel_size = 4, .expert_parallel_size = 2};
  config.zero_optimization.stage = zero_stage;
  std::list<FaultyCommunicator> worlds;
  std::mutex mutex;
  const JobResult job =
      run_job_on_threads(config, 4, options, [&](Communicator& world) -> Communicator& {
        const std::scoped_lock lock(mutex);
        return worlds.emplace_back(world, fault);
      });
  return worst_difference(job, reference, where);
}

}  // namespace

TEST_CASE("a faithful wrapper changes nothing") {
  std::string where;
  for (const int zero_stage : {0, 2})
    CHECK(difference_with({.group = "none"}, where, zero_stage) <= 1e-9);
}

TEST_CASE("doubled expert gradients are found") {
  std::string where;
  for (const int zero_stage : {0, 2}) {
    CHECK(difference_with({.group = "edp"}, where, zero_stage) > 0.1);
    CHECK_THAT(where, contains_text("experts"));
  }
}

TEST_CASE("a dropped reduction is found") {
  std::string where;
  for (const std::string group : {"dp", "edp"})
    for (const int zero_stage : {0, 2})
      CHECK(difference_with({.group = group, .effect = Fault::Effect::kDropped}, where,
                            zero_stage) > 1e-3);
}
