// Properties of the optimizer on one rank: clipping, the norm, decay, skipped steps, memory.
#include <cmath>
#include <map>

#include "comm/self_communicator.h"
#include "model/stage.h"
#include "optim/optimizer_job.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;
using Catch::Matchers::WithinRel;

namespace {

struct OneRank {
  SelfCommunicator world{"world"};
  OptimizerJob job;
  explicit OneRank(const OptimizerCase& what) : job(world, what) {}
};

// Of the first step's gradient, as the optimizer sees it.
double norm_of_first_step() {
  OneRank rank({});
  return rank.job.step(1);
}

double clip_coefficient_with(double max_norm) {
  OneRank rank({.max_norm = max_norm});
  rank.job.step(1);
  return rank.job.scalars().at(StepScalar::kClipCoefficient);
}

}  // namespace

TEST_CASE("optimizer: clips to the limit when the norm is above, not when below, never at 0") {
  const double norm = norm_of_first_step();
  REQUIRE(norm > 1);
  CHECK_THAT(clip_coefficient_with(norm / 2), WithinRel(0.5, 1e-6));
  CHECK_THAT(clip_coefficient_with(norm * 0.99), WithinRel(0.99, 1e-6));
  CHECK(clip_coefficient_with(norm * 1.01) == 1.0);
  CHECK(clip_coefficient_with(0.0) == 1.0);
}

TEST_CASE("optimizer: the norm counts every element once") {
  OneRank rank({});
  Tensor scalars = rank.job.scalars().begin_step(1);
  double squares = 0, value = 1;
  for (Parameter& parameter : rank.job.parameters().all()) {
    const auto gradient = parameter.gradient().span<double>();
    gradient.front() = value;
    gradient.back() = value + 1;
    squares += value * value + (value + 1) * (value + 1);
    value += 2;
  }
  rank.job.optimizer().clip_grads(scalars, rank.job.scalars().loss_sum());
  CHECK_THAT(rank.job.scalars().at(StepScalar::kGradNorm), WithinRel(std::sqrt(squares), 1e-14));
}

TEST_CASE("optimizer: weights decay only where declared") {
  OneRank rank({});
  std::map<std::string, std::vector<double>> before;
  for (const Parameter& parameter : rank.job.parameters().all())
    before[parameter.name] = to_doubles(parameter.weight);
  Tensor scalars = rank.job.scalars().begin_step(1);
  rank.job.optimizer().begin_step();
  rank.job.optimizer().clip_grads(scalars, rank.job.scalars().loss_sum());
  rank.job.optimizer().adamw_step(scalars);
  for (const Parameter& parameter : rank.job.parameters().all()) {
    std::vector<double> expected = before[parameter.name];
    const bool decays = parameter.name != "norm" && parameter.name != "router";
    for (double& weight : expected) weight *= decays ? 1 - kRate * kDecay : 1.0;
    INFO(parameter.name);
    const std::vector<double> weights = to_doubles(parameter.weight);
    for (size_t i = 0; i < weights.size(); ++i)
      REQUIRE(std::abs(weights[i] - expected[i]) <= (decays ? 1e-15 : 0.0));
  }
}

TEST_CASE("optimizer: a model declares decay for everything but norms and routers") {
  RunConfig config = OptimizerCase{}.config();
  config.parallelism.sequence_parallel = false;
  config.model = {.vocab_size = 11,
                  .hidden_size = 8,
                  .num_hidden_layers = 2,
                  .num_attention_heads = 2,
                  .num_key_value_heads = 2,
                  .head_dim = 4,
                  .intermediate_size = 6,
                  .moe_intermediate_size = 6};
  config.moe.enabled = true;
  config.moe.num_shared_experts = 1;
  config.moe.shared_expert_intermediate_size = 6;
  config.moe.layer_freq = {1, 0};
  CpuBackend backend(1);
  SelfCommunicator world("world");
  const ProcessGrid grid(world, GridSizes{});
  Stage stage(backend, grid, config, whole_model(config));
  int num_without = 0;
  for (const Parameter* parameter : stage.parameters()) {
    const bool is_norm = parameter->name.find("norm.weight") != std::string::npos;
    const bool is_router = parameter->name.find(".mlp.gate.weight") != std::string::npos;
    INFO(parameter->name);
    CHECK(parameter->weight_decay == !(is_norm || is_router));
    num_without += parameter->weight_decay ? 0 : 1;
  }
  CHECK(num_without == 2 * 2 + 1 + 1);
}

TEST_CASE("optimizer: a gradient that is not finite changes no weight and no moment") {
  for (const double bad : {NAN, INFINITY}) {
    OneRank rank({.max_norm = 1.0}), healthy({.max_norm = 1.0});
    for (OneRank* job : {&rank, &healthy}) job->job.step(1);
    Tensor scalars = rank.job.scalars().begin_step(2);
    rank.job.parameters().named("experts.down").gradient().span<double>()[5] = bad;
    rank.job.optimizer().clip_grads(scalars, rank.job.scalars().loss_sum());
    rank.job.optimizer().adamw_step(scalars);
    CHECK(rank.job.scalars().at(StepScalar::kSkipStep) == 1.0);
    for (OneRank* job : {&rank, &healthy}) job->job.step(3);  // would show spoilt moments
    for (Parameter& parameter : rank.job.parameters().all())
      CHECK(to_doubles(parameter.weight) ==
            to_doubles(healthy.job.parameters().named(parameter.name).weight));
  }
}
