// OptimizerJob: the optimizer on one rank of any grid, fed with this rank's share of a gradient
// that is known in closed form, and compared with PlainAdamW.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/ops.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "optim/plain_adamw.h"
#include "optim/zero_optimizer.h"

namespace switchyard::test {

// What of the configuration the optimizer reads.
struct OptimizerCase {
  GridSizes sizes = {};
  int stage = 0;
  bool reduce_once_per_step = false;
  bool overlap = true;
  DType real = DType::kF64;
  ReductionType messages = ReductionType::kFP32;
  int accumulation = 1;
  double max_norm = 0;
  Freezing freezing = Freezing::kNothing;

  RunConfig config() const;
  std::string text() const;
};

// What one step of the trainer knows.
class Scalars {
 public:
  Tensor begin_step(int step);
  // What this rank reports as the sum of its losses: 0 unless a test says otherwise.
  Tensor loss_sum() { return Tensor(&loss_sum_, DType::kF64, {1}); }
  double& at(StepScalar scalar) { return values_[static_cast<size_t>(scalar)]; }
  std::vector<double>& values() { return values_; }

 private:
  std::vector<double> values_;
  double loss_sum_ = 0;
};

class OptimizerJob {
 public:
  OptimizerJob(Communicator& world, const OptimizerCase& what);

  // The hooks and gradients of all micro-batches of one step.
  void run_backward(int number);
  // One step. Returns the norm. `spoil`, if given, may change gradients of the last micro-batch.
  double step(int number, const std::function<void(DeclaredParameters&)>& spoil = nullptr);

  DeclaredParameters& parameters() { return parameters_; }
  ZeroOptimizer& optimizer() { return optimizer_; }
  Scalars& scalars() { return scalars_; }
  Backend& backend() { return backend_; }
  const ProcessGrid& grid() const { return grid_; }

 private:
  void add_gradients(int unit, int step, int micro_batch);

  OptimizerCase what_;
  RunConfig config_;
  CpuBackend backend_{1};
  ProcessGrid grid_;
  DeclaredParameters parameters_;
  ZeroOptimizer optimizer_;
  Scalars scalars_;
  std::function<void(DeclaredParameters&)> spoil_;
};

// Runs some steps on this rank and throws at the first number that is not PlainAdamW's: norms,
// gradients, weights; at ranks that disagree in a bit, and at padding that is not zero. Collective.
void check_follows_plain(Communicator& world, const OptimizerCase& what, int steps = 3);

// The bytes of a tensor, as a number.
int64_t hash_of(Tensor tensor);

std::vector<double> to_doubles(Tensor tensor);

}  // namespace switchyard::test
