#include "verify/shrink.h"

#include <algorithm>
#include <numeric>
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

void shrink_layers(RunConfig& config) {
  const std::vector<int64_t> before = config.pipeline.layers_per_stage;
  std::vector<int>& kinds = config.moe.layer_freq;
  std::vector<std::set<size_t>> kept;
  size_t first = 0;
  const auto largest =
      static_cast<size_t>(std::max_element(before.begin(), before.end()) - before.begin());
  const size_t first_of_largest = static_cast<size_t>(std::accumulate(
      before.begin(), before.begin() + static_cast<ptrdiff_t>(largest), int64_t{0}));
  for (const int64_t layers : before) {
    const size_t end = first + static_cast<size_t>(layers);
    kept.push_back(layers_to_keep(kinds, first, end, before.size() == 1 ? 2 : 1));
    first = end;
  }
  const auto total = [&] {
    return std::accumulate(kept.begin(), kept.end(), size_t{0},
                           [](size_t sum, const auto& layers) { return sum + layers.size(); });
  };
  const auto is_even = [](const auto& pieces, auto size) {
    return std::all_of(pieces.begin(), pieces.end(),
                       [&](const auto& piece) { return size(piece) == size(pieces[0]); });
  };
  const bool was_even = is_even(before, [](int64_t layers) { return layers; });
  const auto is_wrongly_even = [&] {
    return !was_even && is_even(kept, [](const auto& layers) { return layers.size(); });
  };
  // The schedule wants a layer for each chunk.
  while (is_wrongly_even() || total() < static_cast<size_t>(config.pipeline.virtual_stages)) {
    const size_t end = first_of_largest + static_cast<size_t>(before[largest]);
    kept[largest] = layers_to_keep(kinds, first_of_largest, end, kept[largest].size() + 1);
  }
  std::vector<int> kinds_kept;
  for (size_t piece = 0; piece < kept.size(); ++piece) {
    config.pipeline.layers_per_stage[piece] = static_cast<int64_t>(kept[piece].size());
    for (const size_t layer : kept[piece]) kinds_kept.push_back(kinds[layer]);
  }
  kinds = kinds_kept;
  config.model.num_hidden_layers = static_cast<int>(kinds.size());
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
  const int64_t tp = grid.tensor_parallel_size, pp = grid.pipeline_parallel_size;
  int64_t& micro = *config.train_micro_batch_size_per_gpu;
  int64_t& accumulation = *config.gradient_accumulation_steps;
  // Enough sequences for every other cut of the same ranks, too: see isolate() in verify.cpp.
  micro = std::min(micro, std::max<int64_t>(2, tp * pp));
  // A pipeline that is filled, has a steady state, and drains.
  if (pp == 1)
    accumulation = std::min<int64_t>(accumulation, 2);
  else if (accumulation % pp == 0)
    accumulation = std::min(accumulation, 2 * pp);
  else
    accumulation = std::min(accumulation, pp + 1);
  config.train_batch_size = micro * accumulation * *grid.data_parallel_size;
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
  shrink_layers(config);
  shrink_vocabulary(config, tp);
  shrink_batch(config);
  model.hidden_size = std::min<int64_t>(model.hidden_size, 32);
  model.intermediate_size = reduced(model.intermediate_size, 48, tp);
  model.moe_intermediate_size = reduced(*model.moe_intermediate_size, 24, etp);
  if (moe.enabled) shrink_experts(moe, grid.expert_parallel_size);
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
