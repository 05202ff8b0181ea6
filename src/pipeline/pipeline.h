// Pipeline: runs the micro-batches of a step through this rank's pieces of the model, in the order
// of a schedule (schedule.h), with the messages between stages as planned (messages.h). One loop
// for all schedules; with one stage the order is F0 B0 F1 B1 ...
//
// Activations of a micro-batch live in a slot, which is used again when the micro-batch has passed:
// there are as many slots as the schedule holds micro-batches at once. What passes between stages
// goes through buffers of its own, so that a message under way holds up no slot.
#pragma once

#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "model/stage.h"
#include "pipeline/messages.h"
#include "pipeline/schedule.h"

namespace switchyard {

class RoutingLog;

class Pipeline {
 public:
  // `pieces`: this rank's, one per chunk; kept by reference.
  Pipeline(Backend& backend, const ProcessGrid& grid, const RunConfig& config,
           std::deque<Stage>& pieces);

  // Gradients are added to those in place, losses to `statistics`. `first_stream` numbers the
  // micro-batches since the start of training, for random numbers.
  void train(std::span<const MicroBatch> batches, Statistics& statistics, Tensor scalars,
             int64_t first_stream, RoutingLog* routing);
  // Forward only: losses are added to `statistics`.
  void evaluate(const MicroBatch& batch, Statistics& statistics, Tensor scalars);

  // Blocks added to the arenas so far: constant once a step of every size has been seen.
  int64_t arena_growths() const;

 private:
  // The activations of one micro-batch in one piece.
  struct Slot {
    explicit Slot(Backend& backend) : activations(backend) {}
    Arena activations;
    Stage::Saved saved;
    std::optional<Arena::Scope> in_use;
  };
  // Memory of one hidden state on its way, and when it may be written or read.
  struct MessageBuffer {
    Buffer memory;
    Tensor hidden;
    Event done;
  };
  // What all micro-batches of a step share.
  struct Step {
    std::span<const MicroBatch> batches;
    Statistics& statistics;
    Tensor scalars;
    int64_t first_stream = 0;
    RoutingLog* routing = nullptr;
    bool training = true;
  };

  Pass make_pass(const Step& step, int micro_batch, Slot& slot);
  Tensor run(const Step& step, const PipelineStep& what, Slot& slot, Tensor received);
  Tensor run_forward(Pass& pass, Stage& piece, Slot& slot, Tensor received);
  void exchange(const MessageGroup& group, Tensor made, const MicroBatch& batch);
  void join_sends();
  // A buffer of `buffers`, as large as the hidden states of `batch`.
  MessageBuffer& buffer_at(std::deque<MessageBuffer>& buffers, size_t index,
                           const MicroBatch& batch);

  Backend& backend_;
  Communicator& pp_;
  std::deque<Stage>& pieces_;
  std::vector<PipelineStep> schedule_;
  ActivationSlots slot_plan_;
  StageMessages messages_;
  std::deque<Slot> slots_;
  std::deque<MessageBuffer> outgoing_, incoming_;
  size_t next_outgoing_ = 0;
  Arena scratch_, recomputed_;
};

}  // namespace switchyard
