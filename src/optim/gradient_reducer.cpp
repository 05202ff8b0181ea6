#include "optim/gradient_reducer.h"

#include <algorithm>
#include <utility>

#include "backend/ops.h"

namespace switchyard {

GradientReducer::GradientReducer(Backend& backend, const RunConfig& config,
                                 std::vector<FlatBuffer>& groups)
    : backend_(backend),
      groups_(groups),
      units_(buckets_by_unit(groups)),
      accumulator_(accumulator_of(config.real())),
      reduces_each_micro_batch_(config.zero_optimization.stage == 2 &&
                                !config.zero_optimization.reduce_once_per_step),
      reduces_to_all_(config.zero_optimization.stage == 0),
      rounds_messages_(config.bf16.enabled &&
                       config.communication_data_type == ReductionType::kBF16),
      overlaps_(config.zero_optimization.overlap_comm) {
  int64_t largest_unit = 0;
  for (const auto& [unit, places] : units_) {
    int64_t size = 0;
    for (const BucketPlace& place : places) size += place.size();
    largest_unit = std::max(largest_unit, size);
  }
  const auto bytes = [&](DType dtype) {
    return largest_unit * static_cast<int64_t>(size_in_bytes(dtype));
  };
  for (Slot& slot : slots_) {
    if (reduces_each_micro_batch_) slot.gradients = Buffer(backend, bytes(accumulator_));
    if (rounds_messages_) slot.message = Buffer(backend, bytes(DType::kBF16));
  }
}

void GradientReducer::begin_step() {
  SY_CHECK(in_flight_.empty() && bound_.empty(), "a step begins before the last one is reduced");
  for (const FlatBuffer& group : groups_)
    backend_.ops().fill(backend_.compute_queue(), group.all_gradients(), 0.0);
}

void GradientReducer::before_gradients(int unit) {
  if (!reduces_each_micro_batch_ || buckets_of(unit).empty()) return;
  SY_CHECK(!bound_.contains(unit), "the gradients of unit {} are bound already", unit);
  Slot& slot = take_slot();
  bound_[unit] = &slot;
  int64_t begin = 0;
  for (const BucketPlace& place : buckets_of(unit)) {
    const Tensor gradients = gradients_of(place, &slot, begin);
    backend_.ops().fill(backend_.compute_queue(), gradients, 0.0);
    place.group->bind_gradients(place.bucket, gradients);
    begin += place.size();
  }
}

void GradientReducer::after_gradients(int unit, bool last) {
  if (buckets_of(unit).empty() || (!reduces_each_micro_batch_ && !last)) return;
  Reduction reduction = {.unit = unit};
  if (reduces_each_micro_batch_) {
    SY_CHECK(bound_.contains(unit), "unit {} ends without a beginning", unit);
    reduction.slot = bound_.extract(unit).mapped();
    for (const BucketPlace& place : buckets_of(unit))
      place.group->bind_gradients(place.bucket, Tensor());
  } else if (rounds_messages_) {
    reduction.slot = &take_slot();
  }
  int64_t begin = 0;
  for (const BucketPlace& place : buckets_of(unit)) {
    reduction.events.push_back(start(place, reduction.slot, begin));
    begin += place.size();
  }
  in_flight_.push_back(std::move(reduction));
  if (!overlaps_) finish();
}

void GradientReducer::finish() {
  while (!in_flight_.empty()) complete_oldest();
}

int64_t GradientReducer::bytes_in_flight() const {
  int64_t bytes = 0;
  for (const Slot& slot : slots_) bytes += slot.gradients.bytes() + slot.message.bytes();
  return bytes;
}

bool GradientReducer::is_idle() const {
  return std::ranges::all_of(in_flight_, [&](const Reduction& reduction) {
    return std::ranges::all_of(reduction.events,
                               [&](Event event) { return backend_.is_complete(event); });
  });
}

const std::vector<BucketPlace>& GradientReducer::buckets_of(int unit) const {
  static const std::vector<BucketPlace> kNone;
  const auto found = units_.find(unit);
  return found == units_.end() ? kNone : found->second;
}

// Waits for the oldest reduction while none is free.
GradientReducer::Slot& GradientReducer::take_slot() {
  const auto find_free = [&] {
    return std::find_if(slots_.begin(), slots_.end(),
                        [](const Slot& slot) { return slot.is_free; });
  };
  while (find_free() == slots_.end()) {
    SY_CHECK(!in_flight_.empty(), "more than {} units add to their gradients at a time",
             slots_.size());
    complete_oldest();
  }
  Slot& slot = *find_free();
  slot.is_free = false;
  return slot;
}

// The bucket's whole gradient on this rank; `begin` is its place in the slot.
Tensor GradientReducer::gradients_of(const BucketPlace& place, const Slot* slot,
                                     int64_t begin) const {
  if (!reduces_each_micro_batch_) return place.group->gradients(place.bucket);
  return slot->gradients.tensor(accumulator_, {begin + place.size()}).rows(begin, place.size());
}

// What of it travels: itself or its rounding.
Tensor GradientReducer::message_of(const BucketPlace& place, const Slot* slot,
                                   int64_t begin) const {
  if (!rounds_messages_) return gradients_of(place, slot, begin);
  return slot->message.tensor(DType::kBF16, {begin + place.size()}).rows(begin, place.size());
}

// Where in a bucket the sum arrives.
Tensor GradientReducer::result_of(const BucketPlace& place, Tensor whole) const {
  return reduces_to_all_ ? whole : place.group->my_slice(whole);
}

Event GradientReducer::start(const BucketPlace& place, const Slot* slot, int64_t begin) {
  const Queue queue = backend_.compute_queue();
  const Tensor message = message_of(place, slot, begin);
  if (rounds_messages_) backend_.ops().convert(queue, message, gradients_of(place, slot, begin));
  const Event ready = backend_.record(queue);
  Communicator& sharers = place.group->sharers();
  return reduces_to_all_ ? sharers.all_reduce_sum(message, ready)
                         : sharers.reduce_scatter_sum(result_of(place, message), message, ready);
}

void GradientReducer::complete_oldest() {
  const Reduction reduction = std::move(in_flight_.front());
  in_flight_.pop_front();
  int64_t begin = 0;
  for (size_t i = 0; i < reduction.events.size(); ++i) {
    const BucketPlace& place = buckets_of(reduction.unit)[i];
    backend_.wait(backend_.compute_queue(), reduction.events[i]);
    absorb(place, reduction.slot, begin);
    begin += place.size();
  }
  if (reduction.slot != nullptr) reduction.slot->is_free = true;
}

// From what arrived to the gradient that is kept.
void GradientReducer::absorb(const BucketPlace& place, const Slot* slot, int64_t begin) {
  const Queue queue = backend_.compute_queue();
  const Tensor sum = result_of(place, gradients_of(place, slot, begin));
  if (rounds_messages_)
    backend_.ops().convert(queue, sum, result_of(place, message_of(place, slot, begin)));
  if (!reduces_each_micro_batch_) return;
  const Tensor kept = place.group->my_gradients(place.bucket);
  backend_.ops().add(queue, kept, kept, sum);
}

}  // namespace switchyard
