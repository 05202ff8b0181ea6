// cost_of_proof(): see shrink.h.
#include "config/layer_costs.h"
#include "verify/shrink.h"

namespace switchyard {
namespace {

struct ParameterCounts {
  double dense = 0, experts = 0, active = 0;
};

ParameterCounts count_parameters(const RunConfig& config) {
  const ModelConfig& model = config.model;
  const MoeConfig& moe = config.moe;
  ParameterCounts counts;
  const auto vocabulary = static_cast<double>(head_matmul_parameters(config));
  counts.dense = model.tie_word_embeddings ? vocabulary : 2 * vocabulary;
  counts.active = vocabulary;
  const double matrices = moe.expert_activation == ExpertActivation::kSwiGLU ? 3 : 2;
  const double expert = matrices * static_cast<double>(model.hidden_size) *
                        static_cast<double>(*model.moe_intermediate_size);
  for (int layer = 0; layer < model.num_hidden_layers; ++layer) {
    const auto active = static_cast<double>(active_matmul_parameters(config, layer));
    const bool is_moe = moe.layer_freq[static_cast<size_t>(layer)] != 0;
    counts.active += active;
    counts.dense += is_moe ? active - moe.top_k * expert : active;
    counts.experts += is_moe ? moe.num_experts * expert : 0;
  }
  return counts;
}

// What one token leaves behind for the backward pass, in elements.
double activations_per_token(const RunConfig& config) {
  const ModelConfig& model = config.model;
  const double attention = static_cast<double>(*model.head_dim) *
                           (2.0 * model.num_attention_heads + 2.0 * *model.num_key_value_heads);
  double elements = 2 * static_cast<double>(model.vocab_size);
  for (const int is_moe : config.moe.layer_freq)
    elements +=
        8 * static_cast<double>(model.hidden_size) + attention +
        3 * static_cast<double>(is_moe != 0 ? config.moe.top_k * (*model.moe_intermediate_size +
                                                                  model.hidden_size) +
                                                  config.moe.num_experts
                                            : model.intermediate_size);
  return elements;
}

}  // namespace

ProofCost cost_of_proof(const RunConfig& config, int64_t steps) {
  constexpr double kF64 = 8;
  const ParameterCounts counts = count_parameters(config);
  const ParallelismConfig& grid = config.parallelism;
  const double dp = *grid.data_parallel_size;
  const double edp = dp * grid.tensor_parallel_size /
                     (grid.expert_parallel_size * *grid.expert_tensor_parallel_size);
  // Weight, gradient and two moments, on each rank that holds a parameter; of the reference four
  // whole tensors beside them, to compare with (the reference itself is gone by then).
  const double state = 4 * kF64 * (dp * counts.dense + edp * counts.experts);
  const double compared = 4 * kF64 * (counts.dense + counts.experts);
  const auto sequence = static_cast<double>(config.data.sequence_length);
  const double tokens = static_cast<double>(*config.train_batch_size) * sequence;
  const double activations = kF64 * tokens /
                             static_cast<double>(*config.gradient_accumulation_steps) *
                             activations_per_token(config);
  const double products = counts.active + static_cast<double>(attention_core_products(config)) *
                                              config.model.num_hidden_layers;
  return {.bytes = state + compared + activations,
          .flops = 2 * 6 * products * tokens * static_cast<double>(steps)};
}

}  // namespace switchyard
