// TinyModel: a whole model of a few hundred parameters on one rank, in f64, with one micro-batch of
// random tokens: small enough to differentiate every parameter numerically.
#pragma once

#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/ops.h"
#include "comm/process_grid.h"
#include "comm/self_communicator.h"
#include "config/config.h"
#include "core/random.h"
#include "model/moe/routing_log.h"
#include "model/stage.h"
#include "optim/zero_optimizer.h"

namespace switchyard::test {

inline RunConfig tiny_config() {
  RunConfig config;
  config.fp64.enabled = true;
  config.train_micro_batch_size_per_gpu = 2;
  config.model = {.vocab_size = 11,
                  .hidden_size = 8,
                  .num_hidden_layers = 2,
                  .num_attention_heads = 4,
                  .num_key_value_heads = 2,
                  .head_dim = 2,
                  .intermediate_size = 6,
                  .moe_intermediate_size = 5,
                  .initializer_range = 0.3};
  config.moe.enabled = true;
  config.moe.num_experts = 4;
  config.moe.top_k = 2;
  config.moe.load_balancing_loss_coef = 0.1;
  config.moe.z_loss_coef = 0.05;
  config.data.sequence_length = 5;
  config.data.path = "unused";
  return config;
}

// A random micro-batch with some ignored targets and a document border in the second sequence.
struct HostBatch {
  int64_t sequence_length;
  std::vector<int32_t> token_ids, targets, positions, first_visible;

  HostBatch(int64_t num_sequences, int64_t tokens_per_sequence, int64_t vocab_size)
      : sequence_length(tokens_per_sequence) {
    const uint64_t key = random_key(3, "batch");
    const auto draw = [&](int64_t i) {
      return static_cast<int32_t>(random_uniform(key, static_cast<uint64_t>(i)) *
                                  static_cast<double>(vocab_size));
    };
    for (int64_t row = 0; row < num_sequences * sequence_length; ++row) {
      const int64_t in_sequence = row % sequence_length;
      const int64_t begin = row / sequence_length == 1 && in_sequence >= 2 ? 2 : 0;
      token_ids.push_back(draw(row));
      targets.push_back(row % 4 == 3 ? kIgnoredTarget : draw(row + 1000));
      positions.push_back(static_cast<int32_t>(in_sequence - begin));
      first_visible.push_back(static_cast<int32_t>(row - in_sequence + begin));
    }
  }

  // The batch as a layer sees it; `sequence_length` as given at construction.
  MicroBatch view() {
    const auto T = static_cast<int64_t>(token_ids.size());
    return {.num_sequences = T / sequence_length,
            .sequence_length = sequence_length,
            .first_row = 0,
            .global_rows = T,
            .token_ids = Tensor(token_ids.data(), DType::kI32, {T}),
            .targets = Tensor(targets.data(), DType::kI32, {T}),
            .positions = Tensor(positions.data(), DType::kI32, {T}),
            .first_visible = Tensor(first_visible.data(), DType::kI32, {T})};
  }
};

class TinyModel {
 public:
  explicit TinyModel(RunConfig unresolved)
      : config_(resolved(std::move(unresolved))),
        backend_(1),
        world_("world"),
        grid_(world_, GridSizes{}),
        stage_(backend_, grid_, config_, whole_model(config_)),
        optimizer_(backend_, grid_, config_, stage_.parameters()),
        statistics_(backend_, num_moe_layers(config_), config_.moe.num_experts),
        activations_(backend_),
        scratch_(backend_),
        recomputed_(backend_),
        host_(*config_.train_micro_batch_size_per_gpu, config_.data.sequence_length,
              config_.model.vocab_size),
        scalars_(static_cast<size_t>(kNumStepScalars), 0.0) {
    for (const int32_t target : host_.targets) num_targets_ += target != kIgnoredTarget ? 1 : 0;
    scalars_[static_cast<size_t>(StepScalar::kInverseTargetCount)] = 1 / num_targets_;
  }

  // lm loss + coef * sum over layers of balance losses + coef * sum over layers of z-losses.
  double loss() {
    Arena::Scope slot(activations_);
    Pass pass = make_pass();
    stage_.forward(pass, Tensor(), saved_);
    return loss_of_statistics();
  }

  // Leaves the gradients in parameters(); returns the loss.
  double loss_and_gradients() {
    Arena::Scope slot(activations_);
    optimizer_.begin_step();
    Pass pass = make_pass();
    stage_.forward(pass, Tensor(), saved_);
    const double loss = loss_of_statistics();
    stage_.backward(pass, Tensor(), saved_);
    return loss;
  }

  ParameterList parameters() { return stage_.parameters(); }
  const RunConfig& config() const { return config_; }
  RoutingLog& routing() { return routing_; }
  StatisticsBuffer& statistics() { return statistics_; }
  HostBatch& batch() { return host_; }

 private:
  static RunConfig resolved(RunConfig config) {
    resolve(config, 1);
    return config;
  }

  Pass make_pass() {
    batch_ = host_.view();
    statistics_.clear(backend_.compute_queue());
    return Pass{.queue = backend_.compute_queue(),
                .activations = activations_,
                .scratch = scratch_,
                .kept = activations_,
                .recomputed = recomputed_,
                .batch = batch_,
                .statistics = statistics_.statistics(),
                .scalars = Tensor(scalars_.data(), DType::kF64, {kNumStepScalars}),
                .routing = &routing_};
  }

  double loss_of_statistics() {
    const StatisticsBuffer::Values values = statistics_.download(backend_.compute_queue());
    const double scopes = config_.moe.load_balancing_scope == BalanceScope::kSequence
                              ? static_cast<double>(*config_.train_micro_batch_size_per_gpu)
                              : 1.0;
    double loss = values.loss_sum / num_targets_;
    for (const double sum : values.balance_sum)
      loss += config_.moe.load_balancing_loss_coef * sum / scopes;
    for (const double sum : values.z_sum)
      loss += config_.moe.z_loss_coef * sum / static_cast<double>(host_.token_ids.size());
    return loss;
  }

  RunConfig config_;
  CpuBackend backend_;
  SelfCommunicator world_;
  ProcessGrid grid_;
  Stage stage_;
  ZeroOptimizer optimizer_;
  StatisticsBuffer statistics_;
  Arena activations_, scratch_, recomputed_;
  Stage::Saved saved_;
  HostBatch host_;
  MicroBatch batch_;
  std::vector<double> scalars_;
  RoutingLog routing_;
  double num_targets_ = 0;
};

}  // namespace switchyard::test
