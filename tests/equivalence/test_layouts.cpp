// One truth for every layout: 20 steps in f64 give the same losses, norms, gradients (steps 1 and
// 20) and final weights on every grid, to 1e-9; exactly zero where the reference is zero. Ignored
// targets are spread unevenly: one rank has none left now and then.
#include <algorithm>
#include <numeric>

#include "equivalence/check_layouts.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// The batches differ from step to step: means of five.
bool learns(const JobResult& job) {
  const auto& loss = job.lm_loss;
  return std::accumulate(loss.end() - 5, loss.end(), 0.0) <
         std::accumulate(loss.begin(), loss.begin() + 5, 0.0);
}

// check_layouts() of a job that learns something.
JobResult check_learning(const RunConfig& config, std::initializer_list<int> rank_counts,
                         size_t stride = 1) {
  JobResult reference = check_layouts(config, rank_counts, stride);
  CHECK(learns(reference));
  return reference;
}

// (expert, layer, step) triples in which the expert receives nothing.
int64_t starved_experts(RunConfig config) {
  RoutingLog routing;
  run_job_on_threads(config, 1, {.routing = &routing});
  int64_t starved = 0;
  for (int step = 0; step < 20; ++step)
    for (int layer = 0; layer < 2; ++layer) {
      const std::vector<int32_t>& kept = routing.at(step, layer).kept;
      for (int32_t expert = 0; expert < config.moe.num_experts; ++expert)
        starved += std::count(kept.begin(), kept.end(), expert) == 0 ? 1 : 0;
    }
  return starved;
}

struct Drops {
  TokenDropPolicy policy;
  DropOrderConfig order;
};

const std::vector<Drops> kDrops = {{TokenDropPolicy::kDropless, DropOrderConfig::kProbs},
                                   {TokenDropPolicy::kCapacity, DropOrderConfig::kProbs},
                                   {TokenDropPolicy::kCapacity, DropOrderConfig::kPosition}};

}  // namespace

TEST_CASE("all layouts of 1, 2, 4 and 8 ranks agree") {
  const TokenFixture tokens(900, 8, 29);
  for (const TokenDropPolicy policy : {TokenDropPolicy::kDropless, TokenDropPolicy::kCapacity}) {
    RunConfig config = small_job_config(tokens.prefix());
    config.gradient_accumulation_steps = policy == TokenDropPolicy::kDropless ? 4 : 2;
    config.train_batch_size = 8 * *config.gradient_accumulation_steps;
    config.moe.num_shared_experts = 1;
    config.moe.token_drop_policy = policy;
    config.moe.capacity_scope = BalanceScope::kMicroBatch;
    config.gradient_clipping = 1.0;
    CAPTURE(static_cast<int>(policy));
    check_learning(config, {1, 2, 4, 8});
  }
}

TEST_CASE("layouts of 3, 6 and 12 ranks agree: odd cuts, uneven stages, three ranks of experts") {
  const TokenFixture tokens(900, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.train_batch_size = 24;
  config.gradient_accumulation_steps = 2;
  config.model.num_hidden_layers = 4;
  config.moe.layer_freq = {1, 0, 1, 1};
  config.model.hidden_size = 24;
  config.model.num_attention_heads = 12;
  config.model.num_key_value_heads = 3;
  config.moe.num_experts = 6;
  config.model.moe_intermediate_size = 12;
  config.model.tie_word_embeddings = true;
  check_learning(config, {3, 6}, 2);
  check_learning(config, {12}, 9);
}

TEST_CASE("layouts agree: drops x top-k x scopes x accumulation") {
  const TokenFixture tokens(320, 8, 29);
  for (const Drops& drops : kDrops)
    for (const int top_k : {1, 2})
      for (const BalanceScope scope : {BalanceScope::kSequence, BalanceScope::kMicroBatch})
        for (const int accumulation : {1, 3}) {
          RunConfig config = small_job_config(tokens.prefix());
          config.moe.token_drop_policy = drops.policy;
          config.moe.drop_order = drops.order;
          config.moe.top_k = top_k;
          config.moe.load_balancing_scope = config.moe.capacity_scope = scope;
          config.train_batch_size = 8 * accumulation;
          config.gradient_accumulation_steps = accumulation;
          CAPTURE(static_cast<int>(drops.policy), static_cast<int>(drops.order), top_k,
                  static_cast<int>(scope), accumulation);
          check_learning(config, {2, 4}, 3);
        }
}

TEST_CASE("layouts agree: sigmoids, groups and a bias; the balance loss of the global batch") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.moe.router = RouterKind::kSigmoid;
  config.moe.n_group = 4;
  config.moe.topk_group = 2;
  config.moe.routed_scaling_factor = 1.5;
  config.moe.router_bias_update_rate = 0.02;
  config.moe.load_balancing_scope = BalanceScope::kGlobalBatch;
  config.train_batch_size = 24;
  config.gradient_accumulation_steps = 3;
  const JobResult sigmoid = check_learning(config, {2, 4});
  REQUIRE(sigmoid.state.size() == 2);
  for (const auto& [name, bias] : sigmoid.state)
    CHECK(*std::max_element(bias.begin(), bias.end()) > 0.05);
  config.moe.router = RouterKind::kSoftmax;
  config.moe.n_group = config.moe.topk_group = 1;
  config.moe.token_drop_policy = TokenDropPolicy::kCapacity;
  config.activation_checkpointing.policy = RecomputePolicy::kFull;
  check_learning(config, {2, 4}, 2);
}

TEST_CASE("layouts agree: Sinkhorn within sequences and micro-batches") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.moe.router = RouterKind::kSinkhorn;
  config.moe.sinkhorn_iterations = 3;  // each is a sum over ranks
  config.moe.load_balancing_loss_coef = 0;
  config.moe.top_k = 1;
  check_learning(config, {2, 4}, 2);
  config.moe.top_k = 2;
  config.moe.load_balancing_scope = BalanceScope::kMicroBatch;
  config.activation_checkpointing.policy = RecomputePolicy::kFull;
  check_learning(config, {2, 4}, 2);
}

TEST_CASE("layouts agree with mixed scopes, jitter, shared experts and a document mask") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.moe.token_drop_policy = TokenDropPolicy::kCapacity;
  config.moe.capacity_scope = BalanceScope::kMicroBatch;
  config.moe.input_jitter_eps = 0.05;
  config.moe.num_shared_experts = 1;
  config.data.document_mask = true;
  config.model.tie_word_embeddings = true;
  check_learning(config, {1, 2, 4});
}

TEST_CASE("layouts agree when routing is skewed, experts starve and ranks send nothing") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.moe.top_k = 1;
  config.moe.load_balancing_loss_coef = 0;
  config.moe.z_loss_coef = 0;
  config.model.initializer_range = 0.6;  // logits far apart: some experts get nothing
  check_learning(config, {1, 2, 4});
  CHECK(starved_experts(config) > 20);
  // Perfectly balanced routing needs every expert; capacity 1 leaves most tokens unsent.
  config = small_job_config(tokens.prefix());
  config.moe.token_drop_policy = TokenDropPolicy::kCapacity;
  config.moe.capacity_factor = 0.01;
  config.moe.capacity_scope = BalanceScope::kMicroBatch;
  config.moe.drop_order = DropOrderConfig::kPosition;  // the first rank's tokens take every place
  CHECK(check_learning(config, {1, 2, 4}).dropped_fraction.back() > 0.8);
}
