#include "verify/shrink.h"

#include <algorithm>
#include <functional>
#include <set>

#include "config/config.h"
#include "config/options.h"
#include "core/math.h"

namespace switchyard {
namespace {

// The smallest multiple of `parts` that is at least `wanted`, but no more than `size`.
int64_t reduced(int64_t size, int64_t wanted, int64_t parts) {
  return std::min(size, div_up(wanted, parts) * parts);
}

void shrink_attention(ModelConfig& model, int tp) {
  const int heads = model.num_attention_heads, kv = *model.num_key_value_heads;
  if (kv % tp == 0) {
    model.num_key_value_heads = tp == 1 ? std::min(kv, 2) : tp;
    model.num_attention_heads = *model.num_key_value_heads * std::min(heads / kv, 2);
  } else {
    model.num_attention_heads = tp;  // several ranks share a key/value head: one query head each
  }
  model.head_dim = std::min<int64_t>(*model.head_dim, 8);
}

// Layers that stay of the piece with layers [begin, end): one of each kind, and at least `wanted`.
std::set<size_t> layers_to_keep(const std::vector<int>& kinds, size_t begin, size_t end,
                                size_t wanted) {
  std::set<size_t> kept;
  std::set<int> seen;
  for (size_t layer = begin; layer < end; ++layer)
    if (seen.insert(kinds[layer]).second) kept.insert(layer);
  for (size_t layer = begin; layer < end && kept.size() < wanted; ++layer) kept.insert(layer);
  return kept;
}

bool is_even(const std::vector<int64_t>& blocks) {
  return std::adjacent_find(blocks.begin(), blocks.end(), std::not_equal_to<>()) == blocks.end();
}

void shrink_layers(RunConfig& config) {
  const std::vector<int64_t> before = config.pipeline.layers_per_stage;
  const std::vector<int> kinds = config.moe.layer_freq;
  std::vector<int64_t>& blocks = config.pipeline.layers_per_stage;
  std::vector<size_t> wanted(before.size(), before.size() == 1 ? 2 : 1);
  std::vector<int> kinds_kept;
  const auto keep = [&] {
    kinds_kept.clear();
    size_t begin = 0;
    for (size_t piece = 0; piece < before.size(); ++piece) {
      const size_t end = begin + static_cast<size_t>(before[piece]);
      const std::set<size_t> kept = layers_to_keep(kinds, begin, end, wanted[piece]);
      for (const size_t layer : kept) kinds_kept.push_back(kinds[layer]);
      blocks[piece] = static_cast<int64_t>(kept.size());
      begin = end;
    }
  };
  keep();
  if (is_even(before)) {
    wanted.assign(wanted.size(), static_cast<size_t>(std::ranges::max(blocks)));
    keep();
  }
  while (kinds_kept.size() < static_cast<size_t>(config.pipeline.virtual_stages)) {
    for (size_t& layers : wanted) ++layers;  // the schedule wants a layer for each chunk
    keep();
  }
  const auto largest =
      static_cast<size_t>(std::max_element(before.begin(), before.end()) - before.begin());
  while (is_even(blocks) != is_even(before)) {  // uneven pieces stay uneven
    wanted[largest] = static_cast<size_t>(blocks[largest]) + 1;
    keep();
  }
  config.moe.layer_freq = kinds_kept;
  config.model.num_hidden_layers = static_cast<int>(kinds_kept.size());
}

// Two experts per rank, or as many more as the router's choice needs to be one.
void shrink_experts(MoeConfig& moe, int ep) {
  const int per_rank = moe.num_experts / ep, before = moe.num_experts;
  for (int wanted = std::min(per_rank, 2); wanted <= per_rank; ++wanted) {
    moe.num_experts = wanted * ep;
    const int group = moe.num_experts / moe.n_group;
    const bool has_groups = moe.n_group == 1 || (moe.num_experts % moe.n_group == 0 && group >= 2 &&
                                                 moe.top_k <= moe.topk_group * group);
    if (has_groups && moe.num_experts >= std::min(before, 2 * moe.top_k)) return;
  }
}

void shrink_vocabulary(RunConfig& config, int tp) {
  constexpr int64_t kSmall = 1024;
  int64_t& vocab = config.model.vocab_size;
  if (vocab <= kSmall) return;
  const bool is_divided = vocab % tp == 0;
  vocab = std::max<int64_t>(kSmall / 2, tp);
  while ((vocab % tp == 0) != is_divided) ++vocab;
  config.data.eod_token_id =
      std::min<int32_t>(config.data.eod_token_id, static_cast<int32_t>(vocab - 1));
}

void shrink_batch(RunConfig& config) {
  const ParallelismConfig& grid = config.parallelism;
  const int64_t pp = grid.pipeline_parallel_size;
  int64_t& micro = *config.train_micro_batch_size_per_gpu;
  int64_t& accumulation = *config.gradient_accumulation_steps;
  // Enough sequences for the experts' dimensions alone, too (diagnosis.h).
  const int64_t dp = *grid.data_parallel_size, ep = grid.expert_parallel_size,
                etp = *grid.expert_tensor_parallel_size, whole = micro;
  micro = std::min<int64_t>(whole, 2);
  while (micro < whole && (micro * dp % ep != 0 || micro * dp % etp != 0)) ++micro;
  // A pipeline that is filled, has a steady state, and drains.
  if (pp == 1)
    accumulation = std::min<int64_t>(accumulation, 2);
  else if (accumulation % pp == 0)
    accumulation = std::min(accumulation, 2 * pp);
  else
    accumulation = std::min(accumulation, pp + 1);
  config.train_batch_size = micro * accumulation * dp;
  config.data.sequence_length = std::min<int64_t>(config.data.sequence_length, 32);
}

}  // namespace

RunConfig shrink(RunConfig config) {
  ModelConfig& model = config.model;
  MoeConfig& moe = config.moe;
  const ParallelismConfig& grid = config.parallelism;
  const int tp = grid.tensor_parallel_size, etp = *grid.expert_tensor_parallel_size;
  const int ranks = tp * *grid.data_parallel_size * grid.pipeline_parallel_size;
  shrink_attention(model, tp);
  // Patterns over parameter names would match nothing, or something else.
  const bool has_patterns = !config.training.trainable.empty() || !config.training.frozen.empty();
  if (!has_patterns) shrink_layers(config);
  shrink_vocabulary(config, tp);
  shrink_batch(config);
  model.hidden_size = std::min<int64_t>(model.hidden_size, 32);
  model.intermediate_size = reduced(model.intermediate_size, 48, tp);
  model.moe_intermediate_size = reduced(*model.moe_intermediate_size, 24, etp);
  if (moe.enabled && !has_patterns) shrink_experts(moe, grid.expert_parallel_size);
  if (moe.num_shared_experts > 0)
    moe.shared_expert_intermediate_size = reduced(*moe.shared_expert_intermediate_size, 24, tp);
  resolve(config, ranks);
  return config;
}

std::vector<std::string> changes(const RunConfig& before, const RunConfig& after) {
  std::vector<std::string> lines;
  for (const Option& option : all_options()) {
    const Json was = option.get(before), is = option.get(after);
    if (was == is) continue;
    std::string key = option.pointer.substr(1);
    std::replace(key.begin(), key.end(), '/', '.');
    lines.push_back(fmt::format("{} {} -> {}", key, was.dump(), is.dump()));
  }
  return lines;
}

}  // namespace switchyard
