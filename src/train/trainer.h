// Trainer: owns the model, the optimizer and the data position, and takes training steps.
#pragma once

#include <cstdint>
#include <deque>

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "model/stage.h"
#include "optim/learning_rate.h"
#include "optim/zero_optimizer.h"
#include "pipeline/pipeline.h"
#include "train/batch_upload.h"
#include "train/moe_statistics.h"

namespace switchyard {

// What a step did, over the whole job: the same numbers on every rank.
struct StepReport {
  int64_t step = 0;    // from 1
  int64_t tokens = 0;  // since the start of training
  double lm_loss = 0;  // mean over the targets of the global batch, without the terms below
  double grad_norm = 0, learning_rate = 0;
  double step_time_s = 0, tokens_per_s = 0, tflops = 0, mfu = 0;
  double all_to_all_time_s = 0;   // of the slowest rank
  double all_to_all_bytes = 0;    // sent to other ranks, all ranks together
  int64_t peak_memory_bytes = 0;  // of the rank with most
  MoeStatistics moe = {};
  int64_t arena_growths = 0;  // blocks ever added to activation and scratch arenas, all ranks
};

// Throws CollectiveError (kNumeric) when loss or gradient norm is NaN or infinite. Both are the
// same on all ranks, and so is the outcome.
void check_finite(const StepReport& report);

struct ValidationReport {
  double lm_loss = 0;  // nats per token that counts
  int64_t num_targets = 0;
};

// The grid that a resolved configuration asks for.
GridSizes grid_sizes(const RunConfig& config);

class Trainer {
 public:
  // `config` is resolved for the ranks of `grid`. References are kept.
  Trainer(const RunConfig& config, Backend& backend, const ProcessGrid& grid,
          const Dataset& dataset);

  StepReport train_step();
  // Over the first `max_batches` global micro-batches of the validation set (0: all of it).
  ValidationReport validate(int64_t max_batches);

  int64_t step() const { return step_; }  // steps taken
  // Their weights may be read.
  ParameterList parameters() {
    optimizer_.wait_for_params();
    return parameters_;
  }
  // Gradients of the last step and weights, for proofs.
  ZeroOptimizer& optimizer() { return optimizer_; }
  // What else a checkpoint must hold: router biases.
  StateList state() const;
  // Record or replay the experts' choice from now on (model/moe/routing_log.h); may be nullptr.
  void set_routing_log(RoutingLog* routing) { routing_ = routing; }

 private:
  std::vector<Batch> next_batches() const;
  Dispatcher::Traffic take_traffic();
  void begin_step(const std::vector<Batch>& batches);
  StepReport finish_step(double started_at);

  const RunConfig& config_;
  Backend& backend_;
  const ProcessGrid& grid_;
  Loader train_loader_, validation_loader_;
  std::deque<Stage> pieces_;  // of the model, on this rank
  ParameterList parameters_;
  ZeroOptimizer optimizer_;
  Pipeline pipeline_;
  LearningRate learning_rate_;
  BatchUpload upload_;
  StatisticsBuffer statistics_;
  Buffer scalars_memory_;
  Tensor scalars_;                    // StepScalar values on the device
  std::vector<double> host_scalars_;  // what begin_step() wrote there
  double num_targets_ = 0;            // of the step at hand, global
  double peak_flops_;                 // of all ranks together
  RoutingLog* routing_ = nullptr;
  int64_t step_ = 0;
};

}  // namespace switchyard
