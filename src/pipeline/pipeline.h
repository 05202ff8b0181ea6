// Pipeline: runs the micro-batches of a step through the stage, forward and backward, in the order
// of a schedule. With one stage the schedule is F0 B0 F1 B1 ..., and one activation slot serves
// all.
#pragma once

#include <span>

#include "backend/backend.h"
#include "model/stage.h"

namespace switchyard {

class RoutingLog;

class Pipeline {
 public:
  Pipeline(Backend& backend, Stage& stage)
      : backend_(backend), stage_(stage), activations_(backend), scratch_(backend) {}

  // Gradients are added to those in place, losses to `statistics`. `first_stream` numbers the
  // micro-batches since the start of training, for random numbers.
  void train(std::span<const MicroBatch> batches, Statistics& statistics, Tensor scalars,
             int64_t first_stream, RoutingLog* routing);
  // Forward only: losses are added to `statistics`.
  void evaluate(const MicroBatch& batch, Statistics& statistics, Tensor scalars);

  // Blocks added to the arenas so far: constant once a step of every size has been seen.
  int64_t arena_growths() const { return activations_.growths() + scratch_.growths(); }

 private:
  Pass make_pass(const MicroBatch& batch, Statistics& statistics, Tensor scalars);

  Backend& backend_;
  Stage& stage_;
  Arena activations_, scratch_;
  Stage::Saved saved_;
};

}  // namespace switchyard
