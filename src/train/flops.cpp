#include "train/flops.h"

#include "config/layer_costs.h"

namespace switchyard {

int64_t active_matmul_parameters(const RunConfig& config) {
  int64_t total = head_matmul_parameters(config);
  for (int layer = 0; layer < config.model.num_hidden_layers; ++layer)
    total += active_matmul_parameters(config, layer);
  return total;
}

double training_flops_per_token(const RunConfig& config) {
  const int64_t attention = attention_core_products(config) * config.model.num_hidden_layers;
  return 6.0 * static_cast<double>(active_matmul_parameters(config) + attention);
}

}  // namespace switchyard
