#include <algorithm>

#include "config/nearest.h"
#include "config/resolve_parts.h"

namespace switchyard {
namespace {

void resolve_layer_freq(RunConfig& config, Report& report) {
  std::vector<int>& freq = config.moe.layer_freq;
  const auto layers = static_cast<size_t>(config.model.num_hidden_layers);
  if (!report.is_sound({"/moe/layer_freq", "/model/num_hidden_layers"})) return;
  if (!config.moe.enabled) {
    freq.assign(layers, 0);
    return;
  }
  if (freq.size() == 1 && layers > 1) {
    const int every = freq[0];
    if (every < 1) {
      report.add("/moe/layer_freq",
                 fmt::format("found {}, expected 1 or more (every n-th layer is MoE); for "
                             "none set moe.enabled to false",
                             every));
      return;
    }
    freq.clear();
    for (int layer = 0; layer < config.model.num_hidden_layers; ++layer)
      freq.push_back(layer % every == 0 ? 1 : 0);
  } else if (freq.size() == 1) {
    freq[0] = std::min(freq[0], 1);
  }
  if (freq.size() != layers)
    report.add("/moe/layer_freq",
               fmt::format("{} entries for {} layers; give one per layer, or one number",
                           freq.size(), layers));
  else if (std::any_of(freq.begin(), freq.end(), [](int entry) { return entry > 1; }))
    report.add("/moe/layer_freq", "the entries of a list are 0 (dense) or 1 (MoE)");
}

// Group-limited choice: a token's experts come from topk_group of n_group groups; a group's score
// is the sum of its two best.
void check_groups(const MoeConfig& moe, Report& report) {
  if (!report.is_sound({"/moe/n_group", "/moe/topk_group", "/moe/num_experts", "/moe/top_k"}))
    return;
  if (moe.topk_group > moe.n_group)
    report.add("/moe/topk_group", fmt::format("{} groups of n_group {}; choose 1 to {}",
                                              moe.topk_group, moe.n_group, moe.n_group));
  if (moe.n_group == 1) return;
  if (moe.num_experts % moe.n_group != 0) {
    report.add("/moe/n_group", fmt::format("{} does not divide num_experts {}; nearest that do: {}",
                                           moe.n_group, moe.num_experts,
                                           listed(nearest_divisors(moe.num_experts, moe.n_group))));
    return;
  }
  const int64_t group_size = moe.num_experts / moe.n_group;
  if (group_size < 2)
    report.add("/moe/n_group",
               fmt::format("{} groups of {} experts have 1 each, but a group is judged by its two "
                           "best; choose at most {}",
                           moe.n_group, moe.num_experts, moe.num_experts / 2));
  else if (moe.top_k > moe.topk_group * group_size)
    report.add("/moe/top_k",
               fmt::format("{} experts per token, but topk_group {} * {} experts of a group = {}; "
                           "lower it, or raise topk_group",
                           moe.top_k, moe.topk_group, group_size, moe.topk_group * group_size));
}

// Sinkhorn balances the choice itself: whatever else would push on it is refused.
void check_sinkhorn(const MoeConfig& moe, Report& report) {
  if (moe.router != RouterKind::kSinkhorn) return;
  if (moe.router_bias_update_rate > 0)
    report.add("/moe/router_bias_update_rate",
               fmt::format("{}, but the router is \"sinkhorn\", which takes no bias; set it to 0",
                           moe.router_bias_update_rate));
  if (moe.load_balancing_loss_coef > 0)
    report.add("/moe/load_balancing_loss_coef",
               fmt::format("{}, but the router is \"sinkhorn\", which balances without a loss; set "
                           "it to 0",
                           moe.load_balancing_loss_coef));
  if (moe.n_group > 1)
    report.add("/moe/n_group",
               fmt::format("{}, but the router is \"sinkhorn\", which knows no groups; set it to 1",
                           moe.n_group));
  if (moe.load_balancing_scope == BalanceScope::kGlobalBatch)
    report.add(
        "/moe/load_balancing_scope",
        "\"global_batch\", but the router is \"sinkhorn\", which evens out the choices of a "
        "scope at once, and a micro-batch's cannot depend on later ones; choose \"sequence\" "
        "or \"micro_batch\"");
}

void check_capacity_scope(const MoeConfig& moe, Report& report) {
  if (moe.capacity_scope == BalanceScope::kGlobalBatch)
    report.add(
        "/moe/capacity_scope",
        "\"global_batch\": what an expert drops of a micro-batch cannot depend on later ones; "
        "choose \"sequence\" or \"micro_batch\"");
}

}  // namespace

void resolve_moe(RunConfig& config, Report& report) {
  MoeConfig& moe = config.moe;
  resolve_layer_freq(config, report);
  if (!moe.shared_expert_intermediate_size && moe.num_shared_experts > 0)
    moe.shared_expert_intermediate_size =
        moe.num_shared_experts * *config.model.moe_intermediate_size;
  if (!moe.enabled) return;
  if (report.is_sound({"/moe/top_k", "/moe/num_experts"}) && moe.top_k > moe.num_experts)
    report.add("/moe/top_k",
               fmt::format("{} experts per token, but num_experts is {}; choose 1 to {}", moe.top_k,
                           moe.num_experts, moe.num_experts));
  check_groups(moe, report);
  check_sinkhorn(moe, report);
  check_capacity_scope(moe, report);
}

}  // namespace switchyard
