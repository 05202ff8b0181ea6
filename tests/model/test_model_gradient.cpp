// The whole model, every parameter: hand-written backward against central differences in f64. The
// numeric loss replays the routing of the base point: the derivative is that of fixed routing, and
// no probe can cross a boundary of the top-k.
#include "support/catch.h"
#include "support/gradient_check.h"
#include "support/tiny_model.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// The largest relative error over all parameters, and which parameter has it.
struct Worst {
  double error = 0;
  std::string name;
};

Worst worst_gradient(const RunConfig& config) {
  TinyModel model(config);
  model.loss_and_gradients();
  model.routing().start_replay();
  Worst worst;
  for (Parameter* parameter : model.parameters()) {
    const std::vector<double> numeric =
        numeric_gradient(parameter->weight.span<double>(), [&] { return model.loss(); });
    const double error = gradient_error(parameter->gradient().span<double>(), numeric);
    if (error >= worst.error) worst = {error, parameter->name};
  }
  return worst;
}

void check(const RunConfig& config) {
  const Worst worst = worst_gradient(config);
  INFO(worst.name);
  CHECK(worst.error <= 1e-6);
}

}  // namespace

TEST_CASE("model gradient: dropless and capacity, k = 1, 2, 3, both scopes") {
  for (const int top_k : {1, 2, 3})
    for (const auto policy : {TokenDropPolicy::kDropless, TokenDropPolicy::kCapacity})
      for (const auto scope : {BalanceScope::kSequence, BalanceScope::kMicroBatch}) {
        RunConfig config = tiny_config();
        config.moe.top_k = top_k;
        config.moe.token_drop_policy = policy;
        config.moe.min_capacity = 1;
        config.moe.capacity_factor = 0.8;
        config.moe.capacity_scope = config.moe.load_balancing_scope = scope;
        CAPTURE(top_k, static_cast<int>(policy), static_cast<int>(scope));
        check(config);
      }
}

TEST_CASE("model gradient: position drops, no renormalisation, input jitter") {
  RunConfig config = tiny_config();
  config.moe.token_drop_policy = TokenDropPolicy::kCapacity;
  config.moe.drop_order = DropOrderConfig::kPosition;
  config.moe.min_capacity = 1;
  config.moe.norm_topk_prob = false;
  config.moe.input_jitter_eps = 0.1;
  check(config);
}

TEST_CASE("model gradient: sigmoid scores, groups, scaled weights, a bias") {
  for (const RouterKind router : {RouterKind::kSoftmax, RouterKind::kSigmoid})
    for (const int top_k : {1, 2})
      for (const bool normalize : {false, true}) {
        RunConfig config = tiny_config();
        config.moe.router = router;
        config.moe.top_k = top_k;
        config.moe.norm_topk_prob = normalize;
        config.moe.routed_scaling_factor = 1.7;
        config.moe.n_group = 2;
        config.moe.topk_group = 1;
        config.moe.router_bias_update_rate = 0.01;
        if (normalize) config.moe.load_balancing_scope = BalanceScope::kGlobalBatch;
        CAPTURE(static_cast<int>(router), top_k, normalize);
        check(config);
      }
}

TEST_CASE("model gradient: Sinkhorn, both scopes") {
  for (const int top_k : {1, 2})
    for (const auto scope : {BalanceScope::kSequence, BalanceScope::kMicroBatch}) {
      RunConfig config = tiny_config();
      config.moe.router = RouterKind::kSinkhorn;
      config.moe.load_balancing_loss_coef = 0;
      config.moe.load_balancing_scope = scope;
      config.moe.top_k = top_k;
      CAPTURE(top_k, static_cast<int>(scope));
      check(config);
    }
}

TEST_CASE("model gradient: ReLU and GELU experts") {
  for (const auto activation : {ExpertActivation::kReLU, ExpertActivation::kGELU}) {
    RunConfig config = tiny_config();
    config.moe.expert_activation = activation;
    config.moe.top_k = 1;
    check(config);
  }
}

TEST_CASE("model gradient: tied embeddings, shared experts, dense layers between") {
  RunConfig config = tiny_config();
  config.model.tie_word_embeddings = true;
  config.model.num_hidden_layers = 3;
  config.moe.num_shared_experts = 1;
  config.moe.layer_freq = {0, 1, 1};
  check(config);
}

TEST_CASE("model gradient: dense model") {
  RunConfig config = tiny_config();
  config.moe.enabled = false;
  check(config);
}

TEST_CASE("model gradient: an expert that receives nothing has an exactly zero gradient") {
  RunConfig config = tiny_config();
  config.moe.top_k = 1;
  config.moe.num_experts = 16;  // more experts than tokens: some must starve
  config.data.sequence_length = 3;
  TinyModel model(config);
  model.loss_and_gradients();
  const auto load = model.statistics().download(Queue{}).expert_load;
  int starved = 0;
  for (Parameter* parameter : model.parameters()) {
    if (parameter->name != "model.layers.0.mlp.experts.down_proj.weight") continue;
    for (int64_t expert = 0; expert < 16; ++expert) {
      if (load[static_cast<size_t>(expert)] > 0) continue;
      ++starved;
      for (const double g : parameter->gradient().rows(expert, 1).span<double>()) REQUIRE(g == 0.0);
    }
  }
  CHECK(starved >= 10);
}
