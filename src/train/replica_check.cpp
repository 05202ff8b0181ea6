#include "train/replica_check.h"

#include <utility>

#include "checkpoint/digest.h"
#include "checkpoint/held_state.h"
#include "comm/collective_error.h"

namespace switchyard {
ReplicaCheck::ReplicaCheck(Backend& backend, Communicator& world, const ParameterList& parameters,
                           const StateList& state, ZeroOptimizer& optimizer)
    : backend_(backend), world_(world), optimizer_(optimizer) {
  const std::vector<HeldTensor> held = held_state(parameters, state, optimizer);
  const std::vector<Declarations> all = exchange_declarations(declarations_of(held), world);
  std::vector<size_t> num_compared(all.size(), 0);  // by rank
  for (Region& region : regions_of(all)) {
    if (region.holders.size() == 1) continue;
    for (Region::Holder& holder : region.holders) {
      if (holder.rank == world.rank()) compared_.push_back(held[holder.held]);
      holder.held = num_compared[static_cast<size_t>(holder.rank)]++;
    }
    regions_.push_back(std::move(region));
  }
  digests_ = memory_for_digests(compared_, backend_);
}

std::vector<ReplicaDifference> ReplicaCheck::differences() {
  optimizer_.wait_for_params();
  return differing_replicas(regions_,
                            exchange_digests(digests_of(compared_, backend_, digests_), world_));
}

void ReplicaCheck::check(int64_t step) {
  const std::vector<ReplicaDifference> found = differences();
  if (found.empty()) return;
  throw CollectiveError(
      ExitCode::kInternal,
      fmt::format("step {}: ranks hold different bits of what should be the same: {}. The memory "
                  "or arithmetic of a rank failed: do not use its machine again before it has been "
                  "tested. What is in memory is not saved; start again from the last checkpoint",
                  step, describe(found)));
}

}  // namespace switchyard
