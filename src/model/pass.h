// Pass: one walk of one micro-batch through the model, forward or backward: its input, the memory
// it may use, and where it leaves its statistics.
//
// Memory discipline of all layers: forward() allocates what it returns and saves in `activations`
// (alive until the micro-batch's backward); backward() allocates what it returns in `scratch`
// *before* it opens a scope there for its own temporaries. When a block computes its activations
// again in the backward, its `activations` are not the micro-batch's slot but memory that lives as
// long as the block's backward; `kept` is the slot always.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "backend/backend.h"

namespace switchyard {

class RoutingLog;

// The rows of one micro-batch on this rank, on the device. Row r of this rank is row first_row + r
// of the *global* micro-batch, which is the same on every grid.
struct MicroBatch {
  int64_t num_sequences = 0;    // B
  int64_t sequence_length = 0;  // S
  int64_t first_row = 0;
  int64_t global_rows = 0;  // rows of the global micro-batch
  Tensor token_ids;         // (T) i32, T = B * S
  Tensor targets;           // (T) i32, kIgnoredTarget where the loss does not count
  Tensor positions;         // (T) i32, for RoPE
  Tensor first_visible;     // (T) i32, first row this row may attend to

  int64_t num_tokens() const { return num_sequences * sequence_length; }
};

// Sums over the micro-batches of a step (or of a validation) on this rank; f64, on the device. Each
// quantity is added by one of the ranks that know it, so that the sum over all ranks is the whole.
// M counts the MoE layers of the whole model.
struct Statistics {
  Tensor loss_sum;     // (1) sum of the losses of all targets that count
  Tensor balance_sum;  // (M) per MoE layer: sum of the balance losses of its scopes
  Tensor z_sum;        // (M) sum of logsumexp(router logits)^2
  Tensor entropy_sum;  // (M) sum of the entropies of the tokens' expert probabilities, in nats
  Tensor expert_load;  // (M, E + 1) kept choices per expert; last: dropped choices
};

struct Pass {
  Queue queue;
  Arena& activations;
  Arena& scratch;
  Arena& kept;        // the micro-batch's slot, from its first forward to its last backward
  Arena& recomputed;  // what a block computes again in its backward
  const MicroBatch& batch;
  Statistics& statistics;
  Tensor scalars;                 // StepScalar values
  bool training = true;           // false: no jitter, evaluation capacity, no gradients
  int64_t num_micro_batches = 1;  // of the step: what losses that are means over the step divide by
  int micro_batch = 0;            // of the step
  bool is_last_micro_batch = true;  // of the step
  int64_t random_stream = 0;        // index of this micro-batch since the start of training
  RoutingLog* routing = nullptr;    // records or replays the experts' choice (tests, proofs)
  bool recomputing = false;         // a forward that has been before: it leaves no statistics
  // Where additions to weight gradients wait, or null: they are done at once.
  std::vector<std::function<void()>>* weight_work = nullptr;

  // This pass with other memory for the activations.
  Pass with_activations(Arena& arena) const;
  // Where a backward puts inputs of weight gradients that it computes again.
  Arena& saved_in_backward() { return weight_work != nullptr ? kept : scratch; }
};

inline Pass Pass::with_activations(Arena& arena) const {
  return {.queue = queue,
          .activations = arena,
          .scratch = scratch,
          .kept = kept,
          .recomputed = recomputed,
          .batch = batch,
          .statistics = statistics,
          .scalars = scalars,
          .training = training,
          .num_micro_batches = num_micro_batches,
          .micro_batch = micro_batch,
          .is_last_micro_batch = is_last_micro_batch,
          .random_stream = random_stream,
          .routing = routing,
          .recomputing = recomputing,
          .weight_work = weight_work};
}

}  // namespace switchyard
