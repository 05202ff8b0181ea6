#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include "comm/collective_error.h"
#include "core/math.h"
#include "model/trainable.h"
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
  std::vector<double> peak = {backend.peak_flops(config.real())};
  grid.world().all_reduce_sum_host(peak);
  peak_flops_ = peak[0];
}

StepReport Trainer::train_step() {
  const double started_at = now_s();
  const std::vector<Batch> batches = next_batches();
  begin_step(batches);
  optimizer_.begin_step();
  pipeline_.train(upload_.upload(batches), statistics_.statistics(), scalars_,
                  step_ * *config_.gradient_accumulation_steps, routing_);
  optimizer_.finish_reduction();
  optimizer_.clip_grads(scalars_);
  optimizer_.adamw_step(scalars_);
  optimizer_.all_gather_params();
  for (const Stage& piece : pieces_) piece.update_router_biases(backend_.compute_queue(), scalars_);
  ++step_;
  return finish_step(started_at);
}

std::vector<Batch> Trainer::next_batches() const {
  const int64_t num_batches = *config_.gradient_accumulation_steps;
  const int64_t sequences = div_exact(*config_.train_batch_size, num_batches);
  std::vector<Batch> batches;
  for (int64_t i = 0; i < num_batches; ++i)
    batches.push_back(train_loader_.at(step_ * *config_.train_batch_size + i * sequences));
  return batches;
}

void Trainer::begin_step(const std::vector<Batch>& batches) {
  std::vector<double> num_targets = {0.0};
  for (const Batch& batch : batches) num_targets[0] += static_cast<double>(batch.num_targets());
  grid_.dp().all_reduce_sum_host(num_targets);
  num_targets_ = num_targets[0];

  const auto steps = static_cast<double>(step_ + 1);
  const AdamWParams& adamw = config_.optimizer.params;
  host_scalars_.assign(static_cast<size_t>(kNumStepScalars), 0.0);
  const auto set = [&](StepScalar scalar, double value) {
    host_scalars_[static_cast<size_t>(scalar)] = value;
  };
  set(StepScalar::kLearningRate, learning_rate_.at(step_ + 1));
  set(StepScalar::kBiasCorrection1, 1 - std::pow(adamw.betas[0], steps));
  set(StepScalar::kBiasCorrection2, 1 - std::pow(adamw.betas[1], steps));
  set(StepScalar::kInverseTargetCount, num_targets_ > 0 ? 1 / num_targets_ : 0);
  backend_.upload(backend_.compute_queue(), scalars_, host_scalars_.data());
  statistics_.clear(backend_.compute_queue());
}

StepReport Trainer::finish_step(double started_at) {
  backend_.download(backend_.compute_queue(), host_scalars_.data(), scalars_);
  // The host waits in here, for the scalars too.
  const StatisticsBuffer::Values values = statistics_.download(backend_.compute_queue());
  const Dispatcher::Traffic traffic = take_traffic();
  std::vector<double> sums = {values.loss_sum, static_cast<double>(traffic.bytes),
                              static_cast<double>(pipeline_.arena_growths())};
  grid_.world().all_reduce_sum_host(sums);

  StepReport report;
  report.step = step_;
  report.tokens = step_ * *config_.train_batch_size * config_.data.sequence_length;
  report.lm_loss = num_targets_ > 0 ? sums[0] / num_targets_ : 0;
  report.grad_norm = host_scalars_[static_cast<size_t>(StepScalar::kGradNorm)];
  report.learning_rate = host_scalars_[static_cast<size_t>(StepScalar::kLearningRate)];
  report.all_to_all_bytes = sums[1];
  report.arena_growths = static_cast<int64_t>(sums[2]);
  report.all_to_all_time_s = grid_.world().all_reduce_max_host(traffic.seconds);
  report.peak_memory_bytes = static_cast<int64_t>(
      grid_.world().all_reduce_max_host(static_cast<double>(backend_.memory().peak_bytes)));
  report.moe = moe_statistics(config_, values, grid_.world());

  const auto step_tokens =
      static_cast<double>(*config_.train_batch_size * config_.data.sequence_length);
  report.step_time_s = now_s() - started_at;
  report.tokens_per_s = step_tokens / report.step_time_s;
  report.tflops = report.tokens_per_s * training_flops_per_token(config_) / 1e12;
  report.mfu = report.tflops * 1e12 / peak_flops_;
  return report;
}

void check_finite(const StepReport& report) {
  if (std::isfinite(report.lm_loss) && std::isfinite(report.grad_norm)) return;
  throw CollectiveError(
      ExitCode::kNumeric,
      fmt::format("step {}: the loss is {} and the gradient norm {}. The weights were not changed "
                  "by this step. Lower the learning rate ({:.3g} here), lengthen the warm-up, or "
                  "lower gradient_clipping",
                  report.step, report.lm_loss, report.grad_norm, report.learning_rate));
}

ValidationReport Trainer::validate(int64_t max_batches) {
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
