// Trainer: owns the model, the optimizer and the training state, and takes training steps.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "backend/backend.h"
#include "backend/ops.h"
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
#include "train/training_state.h"

namespace switchyard {

// What became of a step (anomalies.h).
enum class StepOutcome {
  kApplied,
  kNotFinite,  // skipped
  kLossSpike,  // skipped; with loss_spike.policy "rollback" it is time for Trainer::roll_back()
};

// What a step did, over the whole job: the same numbers on every rank.
struct StepReport {
  int64_t step = 0;    // from 1
  int64_t tokens = 0;  // since the start of training
  double lm_loss = 0;  // mean over the targets of the global batch, without the terms below
  double grad_norm = 0, learning_rate = 0;
  double step_time_s = 0, tokens_per_s = 0, tflops = 0, mfu = 0;
  double data_time_s = 0;         // waiting for the batches; of this rank
  double all_to_all_time_s = 0;   // of the slowest rank
  double all_to_all_bytes = 0;    // sent to other ranks, all ranks together
  int64_t peak_memory_bytes = 0;  // of the rank with most
  MoeStatistics moe = {};
  int64_t arena_growths = 0;  // blocks ever added to activation and scratch arenas, all ranks
  StepOutcome outcome = StepOutcome::kApplied;
  std::string skip_reason = {};  // of a skipped step, for people; names parameters and ranks
  int64_t skipped_steps = 0, consecutive_skipped_steps = 0;  // this one included
};

// Throws CollectiveError (kNumeric) when as many steps in a row have been skipped as
// training.max_skipped_steps says. The report is the same on all ranks, and so is the outcome.
void check_skipped_steps(const RunConfig& config, const StepReport& report);

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

  const TrainingState& training_state() const { return state_; }
  int64_t step() const { return state_.step; }  // steps taken
  // Goes on from `state`. Weights, master weights, moments and state() are the caller's to load,
  // before or after, between steps: everything else that a step reads follows from them.
  void restore(const TrainingState& state);
  // After a loss spike: goes on from `checkpoint`, whose tensors are the caller's to load, but
  // passes over all samples that have been read since. CollectiveError (kNumeric) when this happens
  // more than training.max_skipped_steps times at the same checkpoint.
  void roll_back(const TrainingState& checkpoint);
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
  void conclude(StepReport& report, double loss_sum);
  double scalar(StepScalar which) const { return host_scalars_[static_cast<size_t>(which)]; }

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
  double data_time_s_ = 0;            // of the step at hand
  double peak_flops_;                 // of all ranks together
  RoutingLog* routing_ = nullptr;
  TrainingState state_;
  int64_t last_checkpoint_ = -1, num_rollbacks_ = 0;  // step that roll_back() went to, how often
};

}  // namespace switchyard
