// FlatBuffer: the memory of one group of parameters, laid out as flat_layout.h says: weights,
// gradients, master weights and moments. Owns what Parameter::weight and the gradients view.
//
//   stage   weights   gradients       master, moments      (zero_optimization.stage)
//     0     whole     whole           whole
//     1     whole     whole           my slices
//     2     whole     my slices       my slices
//
// Stage 2 with reduce_once_per_step keeps gradients as stage 1 does. "My slices" is one slice of
// each bucket, one after another. Weights have the dtype `real`, everything else
// accumulator_of(real); a master copy exists only where the two differ (bf16).
#pragma once

#include <map>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "config/run_config.h"
#include "optim/flat_layout.h"
#include "optim/memory_of_group.h"

namespace switchyard {

class FlatBuffer {
 public:
  // Allocates, initialises weights by name and global index (the same on every grid), binds
  // Parameter::weight and, where whole gradients are kept, the gradients. `sharers` and the
  // parameters are kept by reference.
  FlatBuffer(Backend& backend, FlatLayout layout, Communicator& sharers, const RunConfig& config);

  const FlatLayout& layout() const { return layout_; }
  const Bucket& bucket(size_t i) const { return layout_.buckets[i]; }
  Communicator& sharers() const { return *sharers_; }
  bool keeps_whole_gradients() const { return keeps_whole_gradients_; }
  bool keeps_whole_state() const { return keeps_whole_state_; }

  // A bucket as a whole. Of a staged bucket, `weights` is the copy in bucket order.
  Tensor weights(size_t bucket) const { return weights_[bucket]; }
  Tensor gradients(size_t bucket) const;  // if whole gradients are kept
  // What this rank updates of a bucket: its slice, or everything in stage 0.
  Tensor my_gradients(size_t bucket) const;
  Tensor my_masters(size_t bucket) const;  // bf16
  // My slice of a tensor that is laid out as a bucket.
  Tensor my_slice(Tensor whole) const;
  // My slice of the bucket's gradient.
  Tensor gradient_slice(size_t bucket) const;

  // The weights of the bucket's piece, where layers read them; flat.
  Tensor weights(size_t bucket, size_t piece) const { return piece_weights_[bucket][piece]; }
  // Points the gradients of the bucket's parameters into `whole`, or nowhere (none).
  void bind_gradients(size_t bucket, Tensor whole) const;
  // Between the weights that layers read and the copy in bucket order; nothing where they are the
  // same. Out: my slice; in: everything.
  void copy_slice_to_bucket_order(size_t bucket) const;
  void copy_from_bucket_order(size_t bucket) const;

  // One AdamW call: a stretch of one parameter that this rank updates; all flat.
  struct Update {
    const Parameter* parameter = nullptr;
    int64_t begin = 0;      // first element, counted in `parameter`; rows of padding come last
    Tensor weight;          // f32 or f64; bf16: the master copy
    Tensor rounded_weight;  // bf16 only
    Tensor first_moment, second_moment, gradient;
    bool weight_decay = true;
  };
  const std::vector<Update>& updates() const { return updates_; }
  // Master copies become what the weights are; nothing where there are none.
  void refresh_masters() const;

  // Of gradients that micro-batches add to.
  Tensor all_gradients() const { return gradients_; }

  MemoryOfGroup memory() const;

 private:
  void allocate();
  void place_weights();
  void list_updates();
  Tensor mine(Tensor kept, bool is_whole, size_t bucket) const;

  Backend* backend_;
  FlatLayout layout_;
  Communicator* sharers_;
  DType real_, accumulator_;
  bool keeps_whole_gradients_, keeps_whole_state_;

  Buffer weight_memory_, staging_memory_, gradient_memory_, state_memory_;
  Tensor gradients_, first_moments_, second_moments_, masters_;  // flat; no masters but for bf16
  std::vector<Tensor> weights_;                                  // by bucket
  std::vector<std::vector<Tensor>> piece_weights_;               // by bucket and piece
  std::vector<Update> updates_;
};

// Where the buckets of each unit are, over all groups.
struct BucketPlace {
  FlatBuffer* group = nullptr;
  size_t bucket = 0;

  int64_t size() const { return group->bucket(bucket).size; }
};
using BucketsByUnit = std::map<int, std::vector<BucketPlace>>;
BucketsByUnit buckets_by_unit(std::vector<FlatBuffer>& groups);

}  // namespace switchyard
