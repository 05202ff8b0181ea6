// GradientReducer: sums gradients over the ranks that share a group, bucket by bucket, while the
// backward pass runs.
//
//   stage                      what a backward pass adds to        a reduction, and when
//   0                          the whole gradient                  all-reduce, once per step
//   1                          the whole gradient                  reduce-scatter, once per step
//   2                          a buffer in flight                  reduce-scatter, per micro-batch
//   2, reduce_once_per_step    the whole gradient                  reduce-scatter, once per step
//
// In stage 2 the whole gradient of a unit exists only in one of two buffers in flight: zeroed
// before the unit's backward pass, reduced after it, and its slice of the sum added to the
// gradient that is kept. Stage 2 sends as much per micro-batch as stage 1 does per step.
//
// With communication_data_type "bf16" (bf16 training only) messages are rounded to bf16; sums over
// ranks and over micro-batches are f32.
#pragma once

#include <array>
#include <deque>
#include <vector>

#include "backend/backend.h"
#include "config/run_config.h"
#include "optim/flat_buffer.h"

namespace switchyard {

class GradientReducer {
 public:
  // Allocates the buffers in flight. `groups` is kept by reference.
  GradientReducer(Backend& backend, const RunConfig& config, std::vector<FlatBuffer>& groups);

  // Zeroes what accumulates.
  void begin_step();
  // The unit's gradients are about to be added to; binds them.
  void before_gradients(int unit);
  // They have been; `last` in this step. Starts their reduction when it is due.
  void after_gradients(int unit, bool last);
  // Every reduction of the step has arrived in the gradients that are kept.
  void finish();

  int64_t bytes_in_flight() const;  // of the buffers
  // All reductions that have been started are over, by themselves.
  bool is_idle() const;

 private:
  // Holds one unit's gradients, and what of them travels.
  struct Slot {
    Buffer gradients, message;  // whichever is needed
    bool is_free = true;
  };
  struct Reduction {
    int unit = 0;
    Slot* slot = nullptr;            // none when the whole gradient itself travels
    std::vector<Event> events = {};  // by bucket of the unit
  };

  const std::vector<BucketPlace>& buckets_of(int unit) const;
  Slot& take_slot();
  Tensor gradients_of(const BucketPlace& place, const Slot* slot, int64_t begin) const;
  Tensor message_of(const BucketPlace& place, const Slot* slot, int64_t begin) const;
  Tensor result_of(const BucketPlace& place, Tensor whole) const;
  Event start(const BucketPlace& place, const Slot* slot, int64_t begin);
  void complete_oldest();
  void absorb(const BucketPlace& place, const Slot* slot, int64_t begin);

  Backend& backend_;
  std::vector<FlatBuffer>& groups_;
  BucketsByUnit units_;
  DType accumulator_;
  bool reduces_each_micro_batch_, reduces_to_all_, rounds_messages_, overlaps_;
  std::array<Slot, 2> slots_;
  std::map<int, Slot*> bound_;  // units between before_gradients and after_gradients
  std::deque<Reduction> in_flight_;
};

}  // namespace switchyard
