// The order in which a pipeline stage runs its forward and backward passes, as data: made by a pure
// function, printed by `switchyard plan`, simulated in tests (simulator.h), run by one loop.
//
// The model is cut into num_stages * num_chunks pieces, one after another; piece
// chunk * num_stages + stage lives on rank `stage` of the pipeline as its chunk number `chunk`.
// In every schedule a chunk runs its forward passes in ascending order of micro-batches, its
// backward passes too, and the weight parts too: gradients are summed in one order on every layout.
//
//   gpipe             all forwards, then all backwards. Bubble (p - 1)(F + B + W).
//   1f1b              one forward, one backward, as soon as the first gradient is there. The same
//                     bubble, but stage s holds at most p - s micro-batches.
//   interleaved_1f1b  1f1b over num_chunks pieces per rank (arXiv 2104.04473): bubble / num_chunks,
//                     for more messages and more micro-batches held. With one chunk it is 1f1b. A
//                     number of micro-batches that p does not divide runs as the next multiple
//                     with the surplus left out (the order of what remains is still one that ends).
//   zb_h1             the backward in two parts (arXiv 2401.10241): the gradient of the input (B),
//                     which the stage before waits for, and that of the weights (W), which fills
//                     the bubble. (p - 1)(F + B - W), as long as W takes no longer than F or B. No
//                     stage holds more than the first one does under 1f1b.
#pragma once

#include <string>
#include <vector>

#include "config/run_config.h"

namespace switchyard {

enum class Phase {
  kForward,
  kBackward,        // both parts below in one
  kBackwardInput,   // gradient of the stage's input: all messages and dispatches of the backward
  kBackwardWeight,  // gradients of the weights
};

struct PipelineStep {
  Phase phase = Phase::kForward;
  int micro_batch = 0;
  int chunk = 0;  // of this rank, from 0

  bool operator==(const PipelineStep&) const = default;
};

struct ScheduleSpec {
  ScheduleKind kind = ScheduleKind::k1F1B;
  int num_stages = 1;
  int num_micro_batches = 1;
  int num_chunks = 1;  // per stage; above 1 with interleaved_1f1b and several stages only

  int num_pieces() const { return num_stages * num_chunks; }
};

// Of a resolved configuration.
ScheduleSpec schedule_spec(const RunConfig& config);

// The steps of rank `stage` of the pipeline, in order.
std::vector<PipelineStep> make_schedule(const ScheduleSpec& spec, int stage);

// Where a stage keeps the activations of what it has begun and not finished: a slot is taken by a
// forward and free again after the backward (with two parts: after the weight part) of the same
// micro-batch and chunk.
struct ActivationSlots {
  int count = 0;                  // the most alive at once
  std::vector<int> slot_of_step;  // [steps], from 0 to count - 1: the lowest that was free
};
ActivationSlots assign_activation_slots(const std::vector<PipelineStep>& steps);
int activation_slots(const ScheduleSpec& spec, int stage);

// "F3", "B3" (the whole backward or its input part), "W3"; with several chunks "F3.1": chunk 1.
std::string name_of(const PipelineStep& step, int num_chunks);

}  // namespace switchyard
