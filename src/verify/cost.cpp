#include "verify/cost.h"

#include "config/layer_costs.h"
#include "train/flops.h"

namespace switchyard {
namespace {

struct ParameterCounts {
  double dense = 0, experts = 0;
};

// Without norms.
ParameterCounts count_parameters(const RunConfig& config) {
  const ModelConfig& model = config.model;
  const MoeConfig& moe = config.moe;
  const auto vocabulary = static_cast<double>(head_matmul_parameters(config));
  ParameterCounts counts = {.dense = model.tie_word_embeddings ? vocabulary : 2 * vocabulary};
  const double matrices = moe.expert_activation == ExpertActivation::kSwiGLU ? 3 : 2;
  const double expert = matrices * static_cast<double>(model.hidden_size) *
                        static_cast<double>(*model.moe_intermediate_size);
  for (int layer = 0; layer < model.num_hidden_layers; ++layer) {
    const auto active = static_cast<double>(active_matmul_parameters(config, layer));
    const bool is_moe = moe.layer_freq[static_cast<size_t>(layer)] != 0;
    counts.dense += is_moe ? active - moe.top_k * expert : active;
    counts.experts += is_moe ? moe.num_experts * expert : 0;
  }
  return counts;
}

// Elements that one token leaves behind for the backward pass.
double activations_per_token(const RunConfig& config) {
  const ModelConfig& model = config.model;
  const auto width = static_cast<double>(model.hidden_size);
  const double attention =
      2 * static_cast<double>(*model.head_dim) *
      (model.num_attention_heads + static_cast<double>(*model.num_key_value_heads));
  const double expert_rows =
      config.moe.top_k * (width + 3 * static_cast<double>(*model.moe_intermediate_size));
  double elements = 2 * static_cast<double>(model.vocab_size);
  for (const int is_moe : config.moe.layer_freq)
    elements += 8 * width + attention +
                (is_moe != 0 ? expert_rows + 2.0 * config.moe.num_experts
                             : 3 * static_cast<double>(model.intermediate_size));
  return elements;
}

}  // namespace

ProofCost cost_of_proof(const RunConfig& config, int64_t steps) {
  constexpr double kBytesOfF64 = 8;
  const ParameterCounts counts = count_parameters(config);
  const ParallelismConfig& grid = config.parallelism;
  const int dp = *grid.data_parallel_size;
  const int edp = dp * grid.tensor_parallel_size /
                  (grid.expert_parallel_size * *grid.expert_tensor_parallel_size);
  // Weight, gradient and two moments on every rank that holds a parameter; beside them four whole
  // tensors that the run on one rank has left behind.
  const double state = 4 * (dp * counts.dense + edp * counts.experts);
  const double compared = 4 * (counts.dense + counts.experts);
  const double tokens = static_cast<double>(*config.train_batch_size) *
                        static_cast<double>(config.data.sequence_length);
  const double tokens_at_once = tokens / static_cast<double>(*config.gradient_accumulation_steps);
  const double activations = tokens_at_once * activations_per_token(config);
  return {.bytes = kBytesOfF64 * (state + compared + activations),
          .flops = 2 * static_cast<double>(steps) * tokens * training_flops_per_token(config)};
}

}  // namespace switchyard
