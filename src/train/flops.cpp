#include "train/flops.h"

namespace switchyard {

int64_t active_matmul_parameters(const RunConfig& config) {
  const ModelConfig& model = config.model;
  const int64_t D = model.hidden_size, query_width = model.num_attention_heads * *model.head_dim,
                key_width = *model.num_key_value_heads * *model.head_dim;
  const int64_t attention = 2 * D * query_width + 2 * D * key_width;
  const int64_t dense = 3 * D * model.intermediate_size;
  const int64_t matrices = config.moe.expert_activation == ExpertActivation::kSwiGLU ? 3 : 2;
  int64_t moe =
      D * config.moe.num_experts + config.moe.top_k * matrices * D * *model.moe_intermediate_size;
  if (config.moe.num_shared_experts > 0) moe += 3 * D * *config.moe.shared_expert_intermediate_size;
  int64_t total = model.vocab_size * D;  // the LM head; the embedding is a lookup
  for (const int is_moe : config.moe.layer_freq) total += attention + (is_moe != 0 ? moe : dense);
  return total;
}

double training_flops_per_token(const RunConfig& config) {
  const int64_t attention = config.data.sequence_length * config.model.num_attention_heads *
                            *config.model.head_dim * config.model.num_hidden_layers;
  return 6.0 * static_cast<double>(active_matmul_parameters(config) + attention);
}

}  // namespace switchyard
