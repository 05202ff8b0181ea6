#include "optim/weight_gather.h"

#include <algorithm>

namespace switchyard {

WeightGather::WeightGather(Backend& backend, const RunConfig& config,
                           std::vector<FlatBuffer>& groups)
    : backend_(backend),
      units_(buckets_by_unit(groups)),
      is_needed_(config.zero_optimization.stage > 0),
      overlaps_(config.zero_optimization.overlap_comm) {}

void WeightGather::start() {
  if (!is_needed_) return;
  for (const auto& [unit, places] : units_)
    for (const BucketPlace& place : places) {
      const FlatBuffer& group = *place.group;
      group.copy_slice_to_bucket_order(place.bucket);
      const Tensor weights = group.weights(place.bucket);
      const Event ready = backend_.record(backend_.compute_queue());
      const Event event = group.sharers().all_gather(weights, group.my_slice(weights), ready);
      pending_.push_back({.unit = unit, .place = place, .event = event});
    }
  if (!overlaps_) finish_all();
}

void WeightGather::finish(int unit) {
  const auto is_of_unit = [&](const Pending& pending) { return pending.unit == unit; };
  for (const Pending& pending : pending_)
    if (is_of_unit(pending)) finish(pending);
  std::erase_if(pending_, is_of_unit);
}

void WeightGather::finish_all() {
  for (const Pending& pending : pending_) finish(pending);
  pending_.clear();
}

void WeightGather::finish(const Pending& pending) {
  backend_.wait(backend_.compute_queue(), pending.event);
  pending.place.group->copy_from_bucket_order(pending.place.bucket);
}

}  // namespace switchyard
