// ZeroOptimizer: AdamW with global-norm clipping, its state cut over the ranks that hold the same
// parameters (ZeRO, arXiv 1910.02054): zero_optimization.stage 0 cuts nothing, 1 moments and master
// weights, 2 gradients as well. Owns weights, gradients, master weights and moments
// (flat_buffer.h). Dense parameters are cut over dp, experts over edp.
//
// One step:
//   begin_step();          and the hooks during forward and backward passes: reductions start as
//                          the gradients of a unit are complete (gradient_reducer.h)
//   finish_reduction();    sums of all ranks
//   clip_grads(scalars, loss);  global norm and loss, clip coefficient, "skip this step"
//   adamw_step(scalars);   my slices
//   all_gather_params();   everybody's slices; the next forward pass waits for them, unit by unit
//
// Gradient rules: the loss is a mean over the targets of the *global* batch, so gradients are sums:
// dense over dp, experts over edp, partial ones also over the ranks that hold copies
// (Parameter::copies), with no further divisor. The norm counts every element of every parameter
// once. Frozen parameters have neither gradient nor state, and no part in the norm.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "model/parameter.h"
#include "model/unit_hooks.h"
#include "optim/flat_buffer.h"
#include "optim/gradient_reducer.h"
#include "optim/weight_gather.h"

namespace switchyard {

class ZeroOptimizer {
 public:
  // Allocates and initialises `parameters` and binds their views. References are kept, except to
  // `config`.
  ZeroOptimizer(Backend& backend, const ProcessGrid& grid, const RunConfig& config,
                const ParameterList& parameters);
  ~ZeroOptimizer();
  ZeroOptimizer(const ZeroOptimizer&) = delete;
  ZeroOptimizer& operator=(const ZeroOptimizer&) = delete;

  // For the model to call; valid as long as the optimizer.
  UnitHooks hooks();

  void begin_step();
  void finish_reduction();
  // Writes norm, loss, clip coefficient and skip flag to `scalars` (StepScalar, backend/ops.h): the
  // same bits on all ranks of the grid. `loss_sum`, (1) f64: of the losses that this rank reports.
  void clip_grads(Tensor scalars, Tensor loss_sum);
  void adamw_step(Tensor scalars);
  void all_gather_params();
  // All weights may be read, not only those of units whose before_forward hook has been called.
  void wait_for_params();

  // What the state lies in, for checkpoints.
  const std::vector<FlatBuffer>& groups() const { return groups_; }
  // After weights were written from outside that have no master copies of their own: these become
  // what the weights are, rounded. Nothing but for bf16.
  void refresh_masters();

  // For proofs: this rank's box of the parameter, row by row. Collective over the ranks that share
  // it. The gradient is the sum of all ranks, before clipping, zero in frozen rows; from
  // finish_reduction() to the next begin_step(). The weight is the master copy where there is one.
  std::vector<double> gradient_of(const Parameter& parameter);
  std::vector<double> weight_of(const Parameter& parameter);

  std::vector<MemoryOfGroup> memory() const;  // by group
  int64_t bytes_in_flight() const { return reducer_.bytes_in_flight(); }
  // Every reduction started so far is over, though nobody has waited for it.
  bool is_reduction_idle() const { return reducer_.is_idle(); }

 private:
  Backend& backend_;
  const ProcessGrid& grid_;
  AdamWParams params_;
  double max_norm_;
  std::vector<FlatBuffer> groups_;
  GradientReducer reducer_;
  WeightGather gather_;
  Buffer norms_;  // sum of squares and of losses, f64: of each rank of the grid, then mine
};

}  // namespace switchyard
