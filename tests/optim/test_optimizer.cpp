// The optimizer against AdamW and clipping written as plain loops over doubles, and on several
// ranks against itself on one.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>

#include "backend/cpu/cpu_backend.h"
#include "comm/self_communicator.h"
#include "comm/thread_communicator.h"
#include "core/random.h"
#include "model/stage.h"
#include "optim/declared_parameters.h"
#include "optim/optimizer.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;
using Catch::Matchers::WithinRel;

namespace {

constexpr double kRate = 0.02, kBeta1 = 0.8, kBeta2 = 0.95, kEps = 1e-6, kDecay = 0.3;
constexpr int kParts = 4;  // whose sum is the gradient; ranks share them

RunConfig optimizer_config(double max_norm, bool f64 = true) {
  RunConfig config;
  config.fp64.enabled = f64;
  config.gradient_clipping = max_norm;
  config.model.initializer_range = 0.3;
  config.optimizer.params = {
      .lr = kRate, .betas = {kBeta1, kBeta2}, .eps = kEps, .weight_decay = kDecay};
  return config;
}

// Part `part` of the gradient of element `index` of the global tensor `name` at `step`. Multiples
// of 1/64, so that their sum is exact in any order.
double gradient_part(const std::string& name, int64_t index, int step, int part) {
  const uint64_t key = random_key(static_cast<uint64_t>(step), name);
  const double u = random_uniform(key, static_cast<uint64_t>(index), static_cast<uint64_t>(part));
  return std::floor(128 * u - 64) / 64;
}

double gradient(const std::string& name, int64_t index, int step) {
  double sum = 0;
  for (int part = 0; part < kParts; ++part) sum += gradient_part(name, index, step, part);
  return sum;
}

// What one step of the trainer knows.
class Scalars {
 public:
  Tensor begin_step(int step) {
    values_.assign(static_cast<size_t>(kNumStepScalars), 0.0);
    at(StepScalar::kLearningRate) = kRate;
    at(StepScalar::kBiasCorrection1) = 1 - std::pow(kBeta1, step);
    at(StepScalar::kBiasCorrection2) = 1 - std::pow(kBeta2, step);
    return Tensor(values_.data(), DType::kF64, {kNumStepScalars});
  }
  double& at(StepScalar scalar) { return values_[static_cast<size_t>(scalar)]; }

 private:
  std::vector<double> values_;
};

// The optimizer on one rank, with the parameters that this rank holds.
class Job {
 public:
  Job(Communicator& world, const GridSizes& sizes, const RunConfig& config)
      : grid_(world, sizes),
        parameters_(grid_.me().ep, sizes.ep),
        optimizer_(backend_, grid_, config, parameters_.list()) {}

  // One step on this rank's share of the gradient. Returns the norm.
  double step(int number) {
    Tensor scalars = scalars_.begin_step(number);
    optimizer_.zero_grads();
    for (Parameter& parameter : parameters_.all()) {
      const Communicator& sharers =
          parameter.group == ReplicaGroup::kDense ? grid_.dp() : grid_.edp();
      for (int part = sharers.rank(); part < kParts; part += sharers.size())
        add_part(parameter, number, part);
    }
    optimizer_.reduce_grads();
    optimizer_.clip_grads(scalars);
    optimizer_.adamw_step(scalars);
    return scalars_.at(StepScalar::kGradNorm);
  }

  DeclaredParameters& parameters() { return parameters_; }
  Optimizer& optimizer() { return optimizer_; }
  Scalars& scalars() { return scalars_; }

 private:
  static void add_part(Parameter& parameter, int step, int part) {
    const auto add_to = [&](auto gradient) {
      for (size_t i = 0; i < gradient.size(); ++i)
        gradient[i] += static_cast<std::remove_reference_t<decltype(gradient[i])>>(gradient_part(
            parameter.name, parameter.offset[0] * parameter.row_numel() + static_cast<int64_t>(i),
            step, part));
    };
    if (parameter.gradient().dtype() == DType::kF64)
      add_to(parameter.gradient().span<double>());
    else
      add_to(parameter.gradient().span<float>());
  }

  CpuBackend backend_{1};
  ProcessGrid grid_;
  DeclaredParameters parameters_;
  Optimizer optimizer_;
  Scalars scalars_;
};

struct OneRank {
  SelfCommunicator world{"world"};
  Job job;
  explicit OneRank(const RunConfig& config) : job(world, GridSizes{}, config) {}
};

std::vector<double> to_doubles(Tensor tensor) {
  if (tensor.dtype() == DType::kF64) {
    const auto span = tensor.span<double>();
    return {span.begin(), span.end()};
  }
  const auto span = tensor.span<float>();
  return {span.begin(), span.end()};
}

// AdamW (arXiv 1711.05101) with clipping, one element after another.
class PlainAdamW {
 public:
  explicit PlainAdamW(DeclaredParameters& parameters) {
    for (const Parameter& parameter : parameters.all()) {
      State& state = states_[parameter.name];
      state.weight = to_doubles(parameter.weight);
      state.m.assign(state.weight.size(), 0.0);
      state.v.assign(state.weight.size(), 0.0);
      state.decay = parameter.weight_decay ? kDecay : 0.0;
    }
  }

  double step(int number, double max_norm) {
    double squares = 0;
    for (const auto& [name, state] : states_)
      for (size_t i = 0; i < state.weight.size(); ++i)
        squares += std::pow(gradient(name, static_cast<int64_t>(i), number), 2);
    const double norm = std::sqrt(squares);
    const double clip = max_norm > 0 && norm > max_norm ? max_norm / norm : 1.0;
    for (auto& [name, state] : states_)
      for (size_t i = 0; i < state.weight.size(); ++i) {
        const double g = clip * gradient(name, static_cast<int64_t>(i), number);
        state.m[i] = kBeta1 * state.m[i] + (1 - kBeta1) * g;
        state.v[i] = kBeta2 * state.v[i] + (1 - kBeta2) * g * g;
        const double m_hat = state.m[i] / (1 - std::pow(kBeta1, number));
        const double v_hat = state.v[i] / (1 - std::pow(kBeta2, number));
        state.weight[i] -=
            kRate * (m_hat / (std::sqrt(v_hat) + kEps) + state.decay * state.weight[i]);
      }
    return norm;
  }

  const std::vector<double>& weight(const std::string& name) const {
    return states_.at(name).weight;
  }

 private:
  struct State {
    std::vector<double> weight, m, v;
    double decay = 0;
  };
  std::map<std::string, State> states_;
};

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    difference = std::max(difference, std::abs(a[i] - b[i]));
  }
  return difference;
}

// The optimizer follows the plain loop for six steps.
void check_against_plain(double max_norm, bool f64, double tolerance) {
  OneRank rank(optimizer_config(max_norm, f64));
  PlainAdamW plain(rank.job.parameters());
  for (int step = 1; step <= 6; ++step) {
    const double norm = rank.job.step(step), plain_norm = plain.step(step, max_norm);
    CAPTURE(max_norm, f64, step);
    CHECK_THAT(norm, WithinRel(plain_norm, 1e-12));
    for (const Parameter& parameter : rank.job.parameters().all()) {
      INFO(parameter.name);
      CHECK(largest_difference(to_doubles(parameter.weight), plain.weight(parameter.name)) <=
            tolerance);
    }
  }
}

// Of the first step's gradient, as the optimizer sees it.
double norm_of_first_step() {
  OneRank rank(optimizer_config(0));
  return rank.job.step(1);
}

double clip_coefficient_with(double max_norm) {
  OneRank rank(optimizer_config(max_norm));
  rank.job.step(1);
  return rank.job.scalars().at(StepScalar::kClipCoefficient);
}

// What a job of some ranks leaves behind, as global tensors.
struct Outcome {
  std::vector<double> norms;
  std::map<std::string, std::vector<double>> weights;
  bool replicas_agree = true;  // ranks that hold the same rows hold the same bits
};

Outcome run_on(const GridSizes& sizes, double max_norm) {
  Outcome outcome;
  std::mutex mutex;
  DeclaredParameters whole;
  run_ranks(sizes.world(), [&](Communicator& world) {
    Job job(world, sizes, optimizer_config(max_norm));
    std::vector<double> norms;
    for (int step = 1; step <= 4; ++step) norms.push_back(job.step(step));

    const std::scoped_lock lock(mutex);
    if (outcome.norms.empty()) outcome.norms = norms;
    outcome.replicas_agree = outcome.replicas_agree && outcome.norms == norms;
    for (const Parameter& parameter : job.parameters().all()) {
      std::vector<double>& all = outcome.weights[parameter.name];
      all.resize(static_cast<size_t>(whole.named(parameter.name).numel()),
                 std::numeric_limits<double>::infinity());
      const auto mine = parameter.weight.span<double>();
      for (size_t i = 0; i < mine.size(); ++i) {
        double& value = all[static_cast<size_t>(parameter.offset[0] * parameter.row_numel()) + i];
        outcome.replicas_agree = outcome.replicas_agree && (std::isinf(value) || value == mine[i]);
        value = mine[i];
      }
    }
  });
  return outcome;
}

}  // namespace

TEST_CASE("optimizer: AdamW without clipping, with clipping at work and at rest, f64") {
  // The 1e-6 that the clip coefficient adds to the norm leaves a trace of 1e-7 relative.
  for (const double max_norm : {0.0, 1e6}) check_against_plain(max_norm, true, 1e-12);
  check_against_plain(1.0, true, 1e-7);
}

TEST_CASE("optimizer: AdamW in f32") {
  for (const double max_norm : {0.0, 1.0}) check_against_plain(max_norm, false, 1e-5);
}

TEST_CASE("optimizer: clips to the limit when the norm is above, not when below, never at 0") {
  const double norm = norm_of_first_step();
  REQUIRE(norm > 1);
  CHECK_THAT(clip_coefficient_with(norm / 2), WithinRel(0.5, 1e-6));
  CHECK_THAT(clip_coefficient_with(norm * 0.99), WithinRel(0.99, 1e-6));
  CHECK(clip_coefficient_with(norm * 1.01) == 1.0);
  CHECK(clip_coefficient_with(0.0) == 1.0);
}

TEST_CASE("optimizer: the norm counts every element once") {
  OneRank rank(optimizer_config(0));
  Tensor scalars = rank.job.scalars().begin_step(1);
  double squares = 0, value = 1;
  for (Parameter& parameter : rank.job.parameters().all()) {
    const auto gradient = parameter.gradient().span<double>();
    gradient.front() = value;
    gradient.back() = value + 1;
    squares += value * value + (value + 1) * (value + 1);
    value += 2;
  }
  rank.job.optimizer().clip_grads(scalars);
  CHECK_THAT(rank.job.scalars().at(StepScalar::kGradNorm), WithinRel(std::sqrt(squares), 1e-14));
}

TEST_CASE("optimizer: weights decay only where declared") {
  OneRank rank(optimizer_config(0));
  std::map<std::string, std::vector<double>> before;
  for (const Parameter& parameter : rank.job.parameters().all())
    before[parameter.name] = to_doubles(parameter.weight);
  Tensor scalars = rank.job.scalars().begin_step(1);
  rank.job.optimizer().zero_grads();
  rank.job.optimizer().clip_grads(scalars);
  rank.job.optimizer().adamw_step(scalars);
  for (const Parameter& parameter : rank.job.parameters().all()) {
    std::vector<double> expected = before[parameter.name];
    const bool decays = parameter.name != "norm" && parameter.name != "router";
    for (double& weight : expected) weight *= decays ? 1 - kRate * kDecay : 1.0;
    INFO(parameter.name);
    CHECK(largest_difference(to_doubles(parameter.weight), expected) <= (decays ? 1e-15 : 0.0));
  }
}

TEST_CASE("optimizer: a model declares decay for everything but norms and routers") {
  RunConfig config = optimizer_config(0);
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
    OneRank rank(optimizer_config(1.0)), healthy(optimizer_config(1.0));
    for (OneRank* job : {&rank, &healthy}) job->job.step(1);
    Tensor scalars = rank.job.scalars().begin_step(2);
    rank.job.parameters().named("experts.down").gradient().span<double>()[5] = bad;
    rank.job.optimizer().clip_grads(scalars);
    rank.job.optimizer().adamw_step(scalars);
    CHECK(rank.job.scalars().at(StepScalar::kSkipStep) == 1.0);
    for (OneRank* job : {&rank, &healthy}) job->job.step(3);  // would show spoilt moments
    for (Parameter& parameter : rank.job.parameters().all())
      CHECK(to_doubles(parameter.weight) ==
            to_doubles(healthy.job.parameters().named(parameter.name).weight));
  }
}

TEST_CASE("optimizer: zero_grads clears what a step left") {
  OneRank rank(optimizer_config(1.0));
  rank.job.step(1);
  rank.job.optimizer().zero_grads();
  for (const Parameter& parameter : rank.job.parameters().all())
    for (const double value : parameter.gradient().span<double>()) REQUIRE(value == 0.0);
}

TEST_CASE("optimizer: 2 and 4 ranks take the steps of one rank, whatever the grid") {
  for (const double max_norm : {0.0, 1.0}) {
    const Outcome reference = run_on({}, max_norm);
    for (const GridSizes sizes :
         {GridSizes{.dp = 2}, GridSizes{.dp = 2, .ep = 2}, GridSizes{.dp = 4},
          GridSizes{.dp = 4, .ep = 2}, GridSizes{.dp = 4, .ep = 4}}) {
      const Outcome outcome = run_on(sizes, max_norm);
      CAPTURE(max_norm, sizes.dp, sizes.ep);
      CHECK(outcome.replicas_agree);
      for (size_t i = 0; i < reference.norms.size(); ++i)
        CHECK_THAT(outcome.norms[i], WithinRel(reference.norms[i], 1e-14));
      for (const auto& [name, weights] : reference.weights) {
        INFO(name);
        CHECK(largest_difference(outcome.weights.at(name), weights) <= 1e-13);
      }
    }
  }
}
