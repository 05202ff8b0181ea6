#include "train/moe_statistics.h"

#include <algorithm>
#include <numeric>
#include <span>

namespace switchyard {
namespace {

double sum_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// `load`: kept choices of each expert, then dropped choices.
MoeLayerStatistics statistics_of(std::span<const double> load, double entropy_sum, double tokens) {
  const std::span<const double> experts = load.first(load.size() - 1);
  const double kept = sum_of(experts), most = *std::max_element(experts.begin(), experts.end());
  return {
      .expert_load_max_over_mean = kept > 0 ? most * static_cast<double>(experts.size()) / kept : 0,
      .router_entropy = entropy_sum / tokens,
      .dead_experts = static_cast<int>(std::count(experts.begin(), experts.end(), 0.0)),
      .dropped_fraction = load.back() / (kept + load.back())};
}

}  // namespace

MoeStatistics moe_statistics(const RunConfig& config, const StatisticsBuffer::Values& values,
                             Communicator& world) {
  const size_t M = values.z_sum.size(), E = static_cast<size_t>(config.moe.num_experts);
  if (M == 0) return {};
  std::vector<double> sums = {sum_of(values.balance_sum), sum_of(values.z_sum)};
  sums.insert(sums.end(), values.entropy_sum.begin(), values.entropy_sum.end());
  sums.insert(sums.end(), values.expert_load.begin(), values.expert_load.end());
  world.all_reduce_sum_host(sums);

  const auto layers = static_cast<double>(M), batch = static_cast<double>(*config.train_batch_size);
  const double tokens = batch * static_cast<double>(config.data.sequence_length);
  const double scopes = config.moe.load_balancing_scope == BalanceScope::kSequence
                            ? batch
                            : static_cast<double>(*config.gradient_accumulation_steps);
  MoeStatistics statistics = {.load_balancing_loss = sums[0] / (layers * scopes),
                              .z_loss = sums[1] / (layers * tokens)};
  const std::span<const double> entropy(sums.data() + 2, M), load(sums.data() + 2 + M, M * (E + 1));
  for (int layer = 0; layer < config.model.num_hidden_layers; ++layer) {
    if (config.moe.layer_freq[static_cast<size_t>(layer)] == 0) continue;
    const size_t i = statistics.layers.size();
    MoeLayerStatistics of_layer =
        statistics_of(load.subspan(i * (E + 1), E + 1), entropy[i], tokens);
    of_layer.layer = layer;
    statistics.expert_load_max_over_mean =
        std::max(statistics.expert_load_max_over_mean, of_layer.expert_load_max_over_mean);
    statistics.dropped_fraction += of_layer.dropped_fraction / layers;
    statistics.layers.push_back(of_layer);
  }
  return statistics;
}

}  // namespace switchyard
