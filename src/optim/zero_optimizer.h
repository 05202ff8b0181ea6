// Optimizer: AdamW with global-norm clipping over two flat buffers: dense parameters, which every
// data-parallel rank holds, and experts, which the edp ranks share. Owns weights, gradients and
// moments. (ZeRO stage 0: nothing is sharded yet.)
//
// Gradient rules: the loss is a mean over the targets of the *global* batch, so gradients are sums:
// dense over dp, experts over edp, with no further divisor. The norm counts every element of every
// parameter once.
#pragma once

#include "backend/backend.h"
#include "backend/ops.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "model/parameter.h"
#include "optim/flat_buffer.h"

namespace switchyard {

class Optimizer {
 public:
  // Allocates and initialises `parameters` and binds their views.
  Optimizer(Backend& backend, const ProcessGrid& grid, const RunConfig& config,
            const ParameterList& parameters);

  void zero_grads();
  void reduce_grads();
  // Writes norm, clip coefficient and skip flag to `scalars` (StepScalar, backend/ops.h).
  void clip_grads(Tensor scalars);
  void adamw_step(Tensor scalars);

  int64_t num_dense_elements() const { return dense_.num_elements(); }
  int64_t num_expert_elements() const { return experts_.num_elements(); }

 private:
  void update(const FlatBuffer& buffer, Tensor scalars);

  Backend& backend_;
  const ProcessGrid& grid_;
  AdamWParams params_;
  double max_norm_;
  FlatBuffer dense_, experts_;
  Buffer norms_;  // squared norms, f64: dense, the experts of each ep rank, my experts
};

}  // namespace switchyard
