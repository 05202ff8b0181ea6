// Router: what moves its bias and what does not, the balance loss of a step's choices, and the
// choice by Sinkhorn. One rank; hand-made logits, since the router's weight is the unit matrix.
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/ops.h"
#include "comm/process_grid.h"
#include "comm/self_communicator.h"
#include "config/config.h"
#include "model/moe/router.h"
#include "model/stage.h"
#include "support/catch.h"
#include "support/host_tensor.h"
#include "support/tiny_model.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

using Logits = std::vector<std::vector<double>>;  // (T, E)

RunConfig router_config(int num_experts, int top_k) {
  RunConfig config = tiny_config();
  config.model.hidden_size = config.moe.num_experts = num_experts;
  config.model.num_attention_heads = 1;
  config.model.num_key_value_heads = 1;
  config.model.head_dim = 2;
  config.moe.top_k = top_k;
  config.moe.load_balancing_scope = BalanceScope::kMicroBatch;
  resolve(config, 1);
  return config;
}

class RouterBench {
 public:
  explicit RouterBench(const RunConfig& config)
      : config_(config),
        router_(backend_, tp_, world_, "gate", config, 0),
        statistics_(backend_, 1, config.moe.num_experts),
        weight_({config.moe.num_experts, config.moe.num_experts}),
        gradient_({config.moe.num_experts, config.moe.num_experts}),
        scalars_({kNumStepScalars}) {
    for (int e = 0; e < config.moe.num_experts; ++e)
      weight_.values[static_cast<size_t>(e * (config.moe.num_experts + 1))] = 1;
    router_.weight().weight = weight_;
    router_.weight().trainable[0].gradient = gradient_;
    statistics_.clear(Queue{});
  }

  // Takes the tokens with these logits through the router; `how` may change the pass. The choice.
  std::vector<int32_t> forward(
      const Logits& logits, const std::function<void(Pass&)>& how = [](Pass&) {}) {
    const int64_t T = static_cast<int64_t>(logits.size()), E = config_.moe.num_experts;
    batch_.num_sequences = 1;
    batch_.sequence_length = batch_.global_rows = T;
    Tensor x = activations_.allocate(DType::kF64, {T, E});
    for (int64_t t = 0; t < T; ++t)
      std::copy(logits[static_cast<size_t>(t)].begin(), logits[static_cast<size_t>(t)].end(),
                x.data<double>() + t * E);
    Pass pass{.queue = Queue{},
              .activations = activations_,
              .scratch = scratch_,
              .kept = activations_,
              .recomputed = scratch_,
              .batch = batch_,
              .statistics = statistics_.statistics(),
              .scalars = scalars_.view()};
    how(pass);
    router_.forward(pass, x, saved_);
    const auto expert = saved_.expert_TA.span<int32_t>();
    return {expert.begin(), expert.end()};
  }

  std::vector<double> bias() {
    const auto values = router_.bias()->tensor.span<double>();
    return {values.begin(), values.end()};
  }
  void end_step() { router_.update_bias(Queue{}, scalars_); }
  double balance_loss() { return statistics_.download(Queue{}).balance_sum[0]; }

  Router& router() { return router_; }
  Router::Saved& saved() { return saved_; }

 private:
  RunConfig config_;
  CpuBackend backend_{1};
  SelfCommunicator world_{"world"};
  TensorParallel tp_{backend_, world_, false};
  Router router_;
  StatisticsBuffer statistics_;
  Arena activations_{backend_}, scratch_{backend_};
  HostTensor<double> weight_, gradient_, scalars_;
  MicroBatch batch_;
  Router::Saved saved_;
};

RunConfig bias_config() {
  RunConfig config = router_config(4, 1);
  config.moe.router = RouterKind::kSigmoid;
  config.moe.router_bias_update_rate = 0.125;
  return config;
}

// A token that prefers `expert`, by a little.
std::vector<double> prefers(size_t expert) {
  std::vector<double> logits(4, 0.0);
  logits[expert] = 0.5;
  return logits;
}

// Three tokens for expert 0, one each for 1 and 2.
Logits first_batch() { return {prefers(0), prefers(0), prefers(0), prefers(1), prefers(2)}; }

void evaluating(Pass& pass) { pass.training = false; }
void recomputing(Pass& pass) { pass.recomputing = true; }

}  // namespace

TEST_CASE("the bias moves once per step, by the choices of all its micro-batches") {
  RouterBench bench(bias_config());
  CHECK(bench.router().bias()->name == "gate.e_score_correction_bias");
  CHECK(bench.bias() == std::vector<double>(4, 0.0));
  // Counts 3 1 1 0 and 0 0 2 1 make 3 1 3 1, with a mean of 2.
  bench.forward(first_batch());
  CHECK(bench.bias() == std::vector<double>(4, 0.0));
  bench.forward({prefers(2), prefers(2), prefers(3)});
  bench.end_step();
  CHECK(bench.bias() == std::vector<double>{-0.125, 0.125, -0.125, 0.125});
  // The next step counts anew, and chooses by the bias: sigmoid(0.5) is 0.62, sigmoid(0) 0.5.
  CHECK(bench.forward({prefers(0), prefers(0), prefers(1)}) == std::vector<int32_t>{1, 1, 1});
  bench.end_step();
  CHECK(bench.bias() == std::vector<double>{0.0, 0.0, 0.0, 0.25});
}

TEST_CASE("validation uses the bias and leaves it and its counts alone") {
  RouterBench bench(bias_config());
  bench.forward(first_batch());  // 3 1 1 0, mean 1.25
  for (int i = 0; i < 3; ++i)
    bench.forward({prefers(3), prefers(3), prefers(1), prefers(2)}, evaluating);
  bench.end_step();
  const std::vector<double> expected = {-0.125, 0.125, 0.125, 0.125};
  CHECK(bench.bias() == expected);
  CHECK(bench.forward({prefers(0)}, evaluating) == std::vector<int32_t>{1});
  CHECK(bench.bias() == expected);
}

TEST_CASE("computing again keeps the choice and counts nothing") {
  RouterBench bench(bias_config());
  bench.forward(first_batch());
  const Router::Saved first = bench.saved();
  CHECK(bench.forward(first_batch(), recomputing) == std::vector<int32_t>{0, 0, 0, 1, 2});
  CHECK(bench.saved().expert_TA.raw() == first.expert_TA.raw());
  bench.forward({prefers(1), prefers(3), prefers(3)});
  bench.end_step();
  // 3 2 1 2, mean 2. With the first batch twice: 6 3 2 2, where all but the first rise.
  CHECK(bench.bias() == std::vector<double>{-0.125, 0.0, 0.125, 0.0});
}

TEST_CASE("choices count before drops") {
  RunConfig config = bias_config();
  config.moe.token_drop_policy = TokenDropPolicy::kCapacity;
  config.moe.capacity_factor = 0.8;  // of 5 / 4: one token each
  config.moe.min_capacity = 1;
  RouterBench bench(config);
  bench.forward(first_batch());
  const auto kept = bench.saved().kept_TA.span<int32_t>();
  CHECK(std::count(kept.begin(), kept.end(), -1) == 2);
  bench.end_step();
  CHECK(bench.bias() == std::vector<double>{-0.125, 0.125, 0.125, 0.125});  // kept: 1 1 1 0
}

TEST_CASE("the bias of a frozen router stays as it is") {
  RouterBench bench(bias_config());
  bench.router().weight().trainable.clear();
  bench.forward(first_batch());
  bench.end_step();
  CHECK(bench.bias() == std::vector<double>(4, 0.0));
}

TEST_CASE("without a rate there is no bias") {
  RunConfig config = bias_config();
  config.moe.router_bias_update_rate = 0;
  RouterBench bench(config);
  CHECK(!bench.router().bias());
  bench.forward(first_batch());
  bench.end_step();
}

// f is that of all micro-batches so far, P that of the micro-batch.
TEST_CASE("the balance loss over the global batch, by hand") {
  RunConfig config = router_config(2, 1);
  config.moe.load_balancing_scope = BalanceScope::kGlobalBatch;
  RouterBench bench(config);
  const auto of_step = [](int micro_batch) {
    return [micro_batch](Pass& pass) {
      pass.micro_batch = micro_batch;
      pass.num_micro_batches = 3;
    };
  };
  const auto p = [](double logit) { return 1 / (1 + std::exp(-logit)); };  // of the larger of two
  double expected = 0;
  for (int step = 0; step < 2; ++step) {  // the second step counts anew
    // Two tokens for expert 0.
    bench.forward({{1, 0}, {2, 0}}, of_step(0));
    expected += 2 * (1.0 * (p(1) + p(2)) / 2);
    CHECK_THAT(bench.balance_loss(), Catch::Matchers::WithinRel(expected, 1e-14));
    // One each: 3 of 4 for expert 0 so far.
    bench.forward({{1, 0}, {0, 3}}, of_step(1));
    const double p0 = (p(1) + 1 - p(3)) / 2;
    expected += 2 * (0.75 * p0 + 0.25 * (1 - p0));
    CHECK_THAT(bench.balance_loss(), Catch::Matchers::WithinRel(expected, 1e-14));
    // A validation in between has no step to count.
    bench.forward({{1, 0}, {2, 0}}, evaluating);
    expected += p(1) + p(2);
    // Two for expert 1: even.
    bench.forward({{0, 1}, {0, 1}}, of_step(2));
    expected += 1;
    CHECK_THAT(bench.balance_loss(), Catch::Matchers::WithinRel(expected, 1e-14));
    for (const double gradient : bench.saved().prob_gradient_SE.span<double>())
      CHECK_THAT(gradient, Catch::Matchers::WithinRel(2 * 0.5 / 2, 1e-14));
  }
}

TEST_CASE("Sinkhorn evens out the choice in training, within its scope, and not in validation") {
  for (const int top_k : {1, 2}) {
    RunConfig config = router_config(4, top_k);
    config.moe.router = RouterKind::kSinkhorn;
    config.moe.load_balancing_loss_coef = 0;
    RouterBench bench(config);
    constexpr int kTokens = 200;
    const auto random = random_tensor<double>("logits", {kTokens, 4}, 2.0);
    Logits logits;  // most tokens like expert 0 best
    for (size_t t = 0; t < kTokens; ++t) {
      const auto row = random.values.begin() + static_cast<ptrdiff_t>(4 * t);
      logits.emplace_back(row, row + 4);
      logits.back()[0] += 4;
    }
    const auto load_of = [](const std::vector<int32_t>& expert, int32_t e) {
      return static_cast<double>(std::count(expert.begin(), expert.end(), e));
    };
    CAPTURE(top_k);
    CHECK(load_of(bench.forward(logits, evaluating), 0) > 0.8 * kTokens);
    const std::vector<int32_t> even = bench.forward(logits);
    for (int32_t e = 0; e < 4; ++e) {
      CHECK(load_of(even, e) > 0.75 * kTokens * top_k / 4);
      CHECK(load_of(even, e) < 1.25 * kTokens * top_k / 4);
    }
    CHECK(bench.forward(logits, recomputing) == even);
    // Weights: sigmoid(logit) for one expert, renormalised softmax for more.
    const auto weight = bench.saved().weight_TA.span<double>();
    if (top_k == 1) {
      const double logit = logits[7][static_cast<size_t>(even[7])];
      CHECK_THAT(weight[7], Catch::Matchers::WithinRel(1 / (1 + std::exp(-logit)), 1e-14));
    } else {
      const double difference =
          logits[7][static_cast<size_t>(even[14])] - logits[7][static_cast<size_t>(even[15])];
      CHECK_THAT(weight[14], Catch::Matchers::WithinRel(1 / (1 + std::exp(-difference)), 1e-12));
      CHECK_THAT(weight[14] + weight[15], Catch::Matchers::WithinRel(1.0, 1e-14));
    }
  }
}
