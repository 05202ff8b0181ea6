// Pass: one walk of one micro-batch through the model, forward or backward: its input, the memory
// it may use, and where it leaves its statistics.
//
// Memory discipline of all layers: forward() allocates what it returns and saves in `activations`
// (the micro-batch's slot, alive until its backward); backward() allocates what it returns in
// `scratch` *before* it opens a scope there for its own temporaries.
#pragma once

#include <cstdint>

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

// Sums over the micro-batches of a step (or of a validation) on this rank; f64, on the device.
struct Statistics {
  Tensor loss_sum;     // (1) sum of the losses of all targets that count
  Tensor balance_sum;  // (M) per MoE layer: sum of the balance losses of its scopes
  Tensor z_sum;        // (M) sum of logsumexp(router logits)^2
  Tensor expert_load;  // (M, E + 1) kept choices per expert; last: dropped choices
};

struct Pass {
  Queue queue;
  Arena& activations;
  Arena& scratch;
  const MicroBatch& batch;
  Statistics& statistics;
  Tensor scalars;                 // StepScalar values
  bool training = true;           // false: no jitter, evaluation capacity, no gradients
  int64_t num_micro_batches = 1;  // of the step: what losses that are means over the step divide by
  int64_t random_stream = 0;      // index of this micro-batch since the start of training
  RoutingLog* routing = nullptr;  // records or replays the experts' choice (tests, proofs)
};

}  // namespace switchyard
