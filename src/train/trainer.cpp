#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include "comm/collective_error.h"
#include "core/math.h"
#include "model/trainable.h"
#include "train/anomalies.h"
#include "train/flops.h"

namespace switchyard {
namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

LoaderOptions loader_options(const RunConfig& config, const ProcessGrid& grid) {
  return {.micro_batch_size = *config.train_micro_batch_size_per_gpu,
          .data_parallel_size = grid.sizes().dp,
          .data_parallel_rank = grid.me().dp,
          .document_mask = config.data.document_mask,
          .eod_mask_loss = config.data.eod_mask_loss,
          .end_of_document = config.data.eod_token_id};
}

std::deque<Stage> make_pieces(const RunConfig& config, Backend& backend, const ProcessGrid& grid) {
  std::deque<Stage> pieces;
  for (const StagePart& part : parts_of_rank(config, grid.me().pp))
    pieces.emplace_back(backend, grid, config, part);
  return pieces;
}

ParameterList parameters_of(std::deque<Stage>& pieces, const RunConfig& config, Backend& backend,
                            const ProcessGrid& grid) {
  ParameterList all;
  for (Stage& piece : pieces) {
    const ParameterList list = piece.parameters();
    all.insert(all.end(), list.begin(), list.end());
  }
  agree(grid.world(), [&] { select_trainable(config, backend, all); });
  return all;
}

}  // namespace

GridSizes grid_sizes(const RunConfig& config) {
  const ParallelismConfig& parallelism = config.parallelism;
  const int tp = parallelism.tensor_parallel_size;
  const int kv_heads = config.model.num_key_value_heads.value_or(config.model.num_attention_heads);
  return {.dp = *parallelism.data_parallel_size,
          .tp = tp,
          .pp = parallelism.pipeline_parallel_size,
          .ep = parallelism.expert_parallel_size,
          .etp = *parallelism.expert_tensor_parallel_size,
          .kv_copies = std::max(1, tp / kv_heads)};
}

Trainer::Trainer(const RunConfig& config, Backend& backend, const ProcessGrid& grid,
                 const Dataset& dataset)
    : config_(config),
      backend_(backend),
      grid_(grid),
      train_loader_(dataset, Split::kTrain, loader_options(config, grid)),
      validation_loader_(dataset, Split::kValidation, loader_options(config, grid)),
      pieces_(make_pieces(config, backend, grid)),
      parameters_(parameters_of(pieces_, config, backend, grid)),
      optimizer_(backend, grid, config, parameters_),
      pipeline_(backend, grid, config, pieces_),
      learning_rate_(config),
      upload_(backend, *config.gradient_accumulation_steps,
              *config.train_micro_batch_size_per_gpu * config.data.sequence_length),
      statistics_(backend, num_moe_layers(config), config.moe.num_experts),
      scalars_memory_(backend, kNumStepScalars * static_cast<int64_t>(sizeof(double))),
      scalars_(scalars_memory_.tensor(DType::kF64, {kNumStepScalars})) {
  for (Stage& piece : pieces_) piece.set_hooks(optimizer_.hooks());
  state_.dataset = dataset.fingerprint();
  std::vector<double> peak = {backend.peak_flops(config.real())};
  grid.world().all_reduce_sum_host(peak);
  peak_flops_ = peak[0];
}

StepReport Trainer::train_step() {
  const double started_at = now_s();
  backend_.marks().begin_step(step() + 1);
  const std::vector<Batch> batches = next_batches();
  data_time_s_ = now_s() - started_at;
  begin_step(batches);
  optimizer_.begin_step();
  pipeline_.train(upload_.upload(batches), statistics_.statistics(), scalars_,
                  state_.step * *config_.gradient_accumulation_steps, routing_);
  optimizer_.finish_reduction();
  optimizer_.clip_grads(scalars_, statistics_.statistics().loss_sum);
  optimizer_.adamw_step(scalars_);
  optimizer_.all_gather_params();
  for (const Stage& piece : pieces_) piece.update_router_biases(backend_.compute_queue(), scalars_);
  return finish_step(started_at);
}

std::vector<Batch> Trainer::next_batches() const {
  backend_.marks().enter(RunPhase::kData);
  const int64_t num_batches = *config_.gradient_accumulation_steps;
  const int64_t sequences = div_exact(*config_.train_batch_size, num_batches);
  std::vector<Batch> batches;
  for (int64_t i = 0; i < num_batches; ++i)
    batches.push_back(train_loader_.at(state_.next_sample + i * sequences));
  return batches;
}

void Trainer::begin_step(const std::vector<Batch>& batches) {
  std::vector<double> num_targets = {0.0};
  for (const Batch& batch : batches) num_targets[0] += static_cast<double>(batch.num_targets());
  grid_.dp().all_reduce_sum_host(num_targets);
  num_targets_ = num_targets[0];

  const auto update = static_cast<double>(state_.updates + 1);
  const AdamWParams& adamw = config_.optimizer.params;
  host_scalars_.assign(static_cast<size_t>(kNumStepScalars), 0.0);
  const auto set = [&](StepScalar scalar, double value) {
    host_scalars_[static_cast<size_t>(scalar)] = value;
  };
  set(StepScalar::kLearningRate, learning_rate_.at(state_.step + 1));
  set(StepScalar::kBiasCorrection1, 1 - std::pow(adamw.betas[0], update));
  set(StepScalar::kBiasCorrection2, 1 - std::pow(adamw.betas[1], update));
  set(StepScalar::kInverseTargetCount, num_targets_ > 0 ? 1 / num_targets_ : 0);
  set(StepScalar::kLossLimit, loss_limit(config_.loss_spike, state_.accepted_losses));
  backend_.upload(backend_.compute_queue(), scalars_, host_scalars_.data());
  statistics_.clear(backend_.compute_queue());
}

StepReport Trainer::finish_step(double started_at) {
  backend_.marks().enter(RunPhase::kReport);
  backend_.download(backend_.compute_queue(), host_scalars_.data(), scalars_);
  // The host waits in here, for the scalars too.
  const StatisticsBuffer::Values values = statistics_.download(backend_.compute_queue());
  const Dispatcher::Traffic traffic = take_traffic();
  std::vector<double> sums = {static_cast<double>(traffic.bytes),
                              static_cast<double>(pipeline_.arena_growths())};
  grid_.world().all_reduce_sum_host(sums);

  StepReport report;
  report.lm_loss = scalar(StepScalar::kLoss);
  report.grad_norm = scalar(StepScalar::kGradNorm);
  report.learning_rate = scalar(StepScalar::kLearningRate);
  conclude(report, values.loss_sum);
  report.all_to_all_bytes = sums[0];
  report.arena_growths = static_cast<int64_t>(sums[1]);
  report.all_to_all_time_s = grid_.world().all_reduce_max_host(traffic.seconds);
  report.peak_memory_bytes = static_cast<int64_t>(
      grid_.world().all_reduce_max_host(static_cast<double>(backend_.memory().peak_bytes)));
  report.moe = moe_statistics(config_, values, grid_.world());

  const auto step_tokens =
      static_cast<double>(*config_.train_batch_size * config_.data.sequence_length);
  report.step_time_s = now_s() - started_at;
  report.data_time_s = data_time_s_;
  report.tokens_per_s = step_tokens / report.step_time_s;
  report.tflops = report.tokens_per_s * training_flops_per_token(config_) / 1e12;
  report.mfu = report.tflops * 1e12 / peak_flops_;
  return report;
}

// Moves the training state past the step, and says what became of it.
void Trainer::conclude(StepReport& report, double loss_sum) {
  ++state_.step;
  state_.next_sample += *config_.train_batch_size;
  state_.tokens += *config_.train_batch_size * config_.data.sequence_length;
  if (scalar(StepScalar::kSkipStep) == 0) {
    ++state_.updates;
    state_.consecutive_skipped_steps = 0;
    accept_loss(config_.loss_spike, state_.accepted_losses, report.lm_loss);
  } else {
    ++state_.skipped_steps;
    ++state_.consecutive_skipped_steps;
    const bool is_finite = std::isfinite(report.lm_loss) && std::isfinite(report.grad_norm);
    report.outcome = is_finite ? StepOutcome::kLossSpike : StepOutcome::kNotFinite;
    report.skip_reason =
        is_finite
            ? describe_spike(config_.loss_spike, report.lm_loss, scalar(StepScalar::kLossLimit))
            : describe_not_finite(backend_, grid_.world(), optimizer_, parameters_, loss_sum);
  }
  report.step = state_.step;
  report.tokens = state_.tokens;
  report.skipped_steps = state_.skipped_steps;
  report.consecutive_skipped_steps = state_.consecutive_skipped_steps;
}

void Trainer::restore(const TrainingState& state) {
  optimizer_.wait_for_params();                // none arrive any more on top of what is loaded
  const std::string dataset = state_.dataset;  // of the samples to come
  state_ = state;
  state_.dataset = dataset;
}

void Trainer::roll_back(const TrainingState& checkpoint) {
  num_rollbacks_ = checkpoint.step == last_checkpoint_ ? num_rollbacks_ + 1 : 1;
  last_checkpoint_ = checkpoint.step;
  if (num_rollbacks_ > config_.training.max_skipped_steps)
    throw CollectiveError(
        ExitCode::kNumeric,
        fmt::format("the loss leaps again and again: training has gone back to step {} {} times, "
                    "as often as training.max_skipped_steps allows. Go back further by hand, or "
                    "lower the learning rate",
                    checkpoint.step, num_rollbacks_ - 1));
  const int64_t until = state_.next_sample;
  restore(checkpoint);
  pass_over(state_, until, "loss_spike");
}

void check_skipped_steps(const RunConfig& config, const StepReport& report) {
  if (report.consecutive_skipped_steps < config.training.max_skipped_steps) return;
  throw CollectiveError(
      ExitCode::kNumeric,
      fmt::format("step {}: {} steps in a row were skipped, as many as training.max_skipped_steps "
                  "allows. This one: {}. None of them changed the weights. Lower the learning rate "
                  "({:.3g} here), lengthen the warm-up, or lower gradient_clipping",
                  report.step, report.consecutive_skipped_steps, report.skip_reason,
                  report.learning_rate));
}

ValidationReport Trainer::validate(int64_t max_batches) {
  backend_.marks().enter(RunPhase::kValidation);
  const int64_t sequences = *config_.train_micro_batch_size_per_gpu * grid_.sizes().dp;
  optimizer_.wait_for_params();
  int64_t num_batches = validation_loader_.num_global_micro_batches();
  if (max_batches > 0) num_batches = std::min(num_batches, max_batches);
  statistics_.clear(backend_.compute_queue());
  double num_targets = 0;
  for (int64_t i = 0; i < num_batches; ++i) {
    const std::vector<Batch> batch = {validation_loader_.at(i * sequences)};
    num_targets += static_cast<double>(batch[0].num_targets());
    pipeline_.evaluate(upload_.upload(batch)[0], statistics_.statistics(), scalars_);
  }
  take_traffic();
  std::vector<double> loss = {statistics_.download(backend_.compute_queue()).loss_sum};
  std::vector<double> targets = {num_targets};
  grid_.world().all_reduce_sum_host(loss);
  grid_.dp().all_reduce_sum_host(targets);
  return {.lm_loss = targets[0] > 0 ? loss[0] / targets[0] : 0,
          .num_targets = static_cast<int64_t>(targets[0])};
}

StateList Trainer::state() const {
  StateList all;
  for (const Stage& piece : pieces_) {
    const StateList state = piece.state();
    all.insert(all.end(), state.begin(), state.end());
  }
  return all;
}

Dispatcher::Traffic Trainer::take_traffic() {
  Dispatcher::Traffic total;
  for (Stage& piece : pieces_) {
    const Dispatcher::Traffic traffic = piece.take_traffic();
    total.seconds += traffic.seconds;
    total.bytes += traffic.bytes;
  }
  return total;
}

}  // namespace switchyard
