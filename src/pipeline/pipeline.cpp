#include "pipeline/pipeline.h"

namespace switchyard {

Pass Pipeline::make_pass(const MicroBatch& batch, Statistics& statistics, Tensor scalars) {
  return Pass{.queue = backend_.compute_queue(),
              .activations = activations_,
              .scratch = scratch_,
              .batch = batch,
              .statistics = statistics,
              .scalars = scalars};
}

void Pipeline::train(std::span<const MicroBatch> batches, Statistics& statistics, Tensor scalars,
                     int64_t first_stream, RoutingLog* routing) {
  for (size_t i = 0; i < batches.size(); ++i) {
    Arena::Scope slot(activations_);
    Pass pass = make_pass(batches[i], statistics, scalars);
    pass.num_micro_batches = static_cast<int64_t>(batches.size());
    pass.random_stream = first_stream + static_cast<int64_t>(i);
    pass.routing = routing;
    stage_.forward(pass, saved_);
    stage_.backward(pass, saved_);
  }
}

void Pipeline::evaluate(const MicroBatch& batch, Statistics& statistics, Tensor scalars) {
  Arena::Scope slot(activations_);
  Pass pass = make_pass(batch, statistics, scalars);
  pass.training = false;
  stage_.forward(pass, saved_);
}

}  // namespace switchyard
