// Gradient norm, clipping and AdamW.
#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.95, kEps = 1e-8;

double& scalar(HostTensor<double>& scalars, StepScalar which) {
  return scalars.values[static_cast<size_t>(which)];
}

HostTensor<double> step_scalars(int step, double rate, double clip) {
  HostTensor<double> scalars({kNumStepScalars}, 0.0);
  scalar(scalars, StepScalar::kLearningRate) = rate;
  scalar(scalars, StepScalar::kBiasCorrection1) = 1 - std::pow(kBeta1, step);
  scalar(scalars, StepScalar::kBiasCorrection2) = 1 - std::pow(kBeta2, step);
  scalar(scalars, StepScalar::kClipCoefficient) = clip;
  return scalars;
}

template <typename Real>
struct AdamCase {
  explicit AdamCase(int64_t n)
      : weight(shared_random<Real>("weight", {n})),
        gradient({n}),
        m({n}, Real{0}),
        v({n}, Real{0}) {}

  // Another gradient in each step.
  void step(Ops& ops, int number, double rate, double clip, double decay) {
    const auto n = static_cast<int64_t>(gradient.values.size());
    gradient = shared_random<Real>(fmt::format("gradient {}", number), {n});
    auto scalars = step_scalars(number, rate, clip);
    ops.adamw(kQueue, weight, Tensor(), m, v, gradient, scalars, kBeta1, kBeta2, kEps, decay);
  }

  HostTensor<Real> weight, gradient, m, v;
};

}  // namespace

TEST_CASE("AdamW over five steps against its closed sums") {
  CpuBackend backend(2);
  constexpr double kRate = 0.01, kDecay = 0.1, kClip = 0.7;
  AdamCase<double> c(40000);
  std::vector<double> weight = c.weight.values, m, v;
  for (int step = 1; step <= 5; ++step) {
    c.step(backend.ops(), step, kRate * step, kClip, kDecay);
    // m and v as weighted sums over all gradients so far, not as recurrences.
    m.assign(weight.size(), 0);
    v.assign(weight.size(), 0);
    for (int past = 1; past <= step; ++past) {
      const auto g = shared_random<double>(fmt::format("gradient {}", past), {40000});
      const double w1 = (1 - kBeta1) * std::pow(kBeta1, step - past);
      const double w2 = (1 - kBeta2) * std::pow(kBeta2, step - past);
      for (size_t i = 0; i < m.size(); ++i) {
        m[i] += w1 * kClip * g.values[i];
        v[i] += w2 * kClip * kClip * g.values[i] * g.values[i];
      }
    }
    for (size_t i = 0; i < m.size(); ++i) {
      const double m_hat = m[i] / (1 - std::pow(kBeta1, step));
      const double v_hat = v[i] / (1 - std::pow(kBeta2, step));
      weight[i] -= kRate * step * (m_hat / (std::sqrt(v_hat) + kEps) + kDecay * weight[i]);
    }
  }
  CHECK(relative_error(c.m.values, m) <= 1e-14);
  CHECK(relative_error(c.v.values, v) <= 1e-14);
  CHECK(relative_error(c.weight.values, weight) <= 1e-14);
}

TEST_CASE("the first step of AdamW has the length of the learning rate") {
  CpuBackend backend(1);
  AdamCase<double> c(100);
  const std::vector<double> before = c.weight.values;
  c.step(backend.ops(), 1, 0.25, 1, 0);
  for (size_t i = 0; i < before.size(); ++i)
    CHECK_THAT(before[i] - c.weight.values[i],
               Catch::Matchers::WithinRel(std::copysign(0.25, c.gradient.values[i]), 1e-4));
}

TEST_CASE("weight decay does not pass through the moments") {
  CpuBackend backend(1);
  AdamCase<double> c(10);
  const std::vector<double> before = c.weight.values;
  auto scalars = step_scalars(1, 0.5, 1);
  std::fill(c.gradient.values.begin(), c.gradient.values.end(), 0.0);
  backend.ops().adamw(kQueue, c.weight, Tensor(), c.m, c.v, c.gradient, scalars, kBeta1, kBeta2,
                      kEps, 0.25);
  for (size_t i = 0; i < before.size(); ++i)
    CHECK_THAT(c.weight.values[i], Catch::Matchers::WithinRel(0.875 * before[i], 1e-14));
  CHECK(c.m.values == std::vector<double>(10, 0.0));
}

TEST_CASE("AdamW does nothing in a step that is skipped") {
  CpuBackend backend(1);
  AdamCase<float> c(10), untouched(10);
  auto scalars = step_scalars(1, 0.5, 1);
  scalar(scalars, StepScalar::kSkipStep) = 1;
  std::fill(c.gradient.values.begin(), c.gradient.values.end(), kUnset<float>);
  backend.ops().adamw(kQueue, c.weight, Tensor(), c.m, c.v, c.gradient, scalars, kBeta1, kBeta2,
                      kEps, 0.1);
  CHECK(c.weight.values == untouched.weight.values);
  CHECK(c.m.values == untouched.m.values);
  CHECK(c.v.values == untouched.v.values);
}

TEST_CASE("AdamW with a master copy: the same update, and bf16 weights that are its rounding") {
  CpuBackend backend(2);
  constexpr int64_t kSize = 40001;
  AdamCase<float> plain(kSize), master(kSize);
  HostTensor<BFloat16> rounded({kSize});
  for (int step = 1; step <= 2; ++step) {
    plain.step(backend.ops(), step, 0.01, 0.7, 0.1);
    auto scalars = step_scalars(step, 0.01, 0.7);
    backend.ops().adamw(kQueue, master.weight, rounded, master.m, master.v, plain.gradient, scalars,
                        kBeta1, kBeta2, kEps, 0.1);
  }
  CHECK(master.weight.values == plain.weight.values);
  for (size_t i = 0; i < rounded.values.size(); ++i)
    REQUIRE(rounded.values[i].bits == BFloat16(master.weight.values[i]).bits);
}

TEST_CASE("AdamW in f32 and with several threads") {
  const auto run = [](Ops& ops, auto zero) {
    AdamCase<decltype(zero)> c(40001);
    for (int step = 1; step <= 3; ++step) c.step(ops, step, 0.01, 0.7, 0.1);
    return outputs(c.weight, c.m, c.v);
  };
  check_f32(1e-6, run);
  check_thread_counts(run);
}

TEST_CASE("the sum of squares, on top of what was summed") {
  for (const int threads : {1, 3}) {
    CpuBackend backend(threads);
    for (const int64_t n : {0, 1, 4095, 4096, 4097, 100000}) {
      auto x = shared_random<double>("x", {n});
      HostTensor<double> sum({1}, 2.0);
      backend.ops().squared_norm_add(kQueue, sum, x);
      CHECK_THAT(sum.values[0], Catch::Matchers::WithinRel(2 + dot(x.values, x.values), 1e-13));
    }
  }
}

TEST_CASE("the sum of squares in f32, in bf16 and with several threads") {
  const auto run = [](Ops& ops, auto zero) {
    auto x = shared_random<decltype(zero)>("x", {100000});
    HostTensor<double> sum({1}, 0.0);
    ops.squared_norm_add(kQueue, sum, x);
    return outputs(sum);
  };
  check_f32(1e-15, run);  // squares are formed and summed in f64
  check_bf16(1e-15, run);
  check_thread_counts(run);
}

TEST_CASE("the sum of squares of large f32 numbers does not overflow") {
  CpuBackend backend(1);
  HostTensor<float> x({3}, 1e30f);
  HostTensor<double> sum({1}, 0.0);
  backend.ops().squared_norm_add(kQueue, sum, x);
  CHECK_THAT(sum.values[0], Catch::Matchers::WithinRel(3e60, 1e-6));
}

TEST_CASE("clipping: the norm, the coefficient and the step to skip") {
  CpuBackend backend(1);
  const auto clip = [&](std::vector<double> squares, double max_norm,
                        std::vector<double> losses = {1, 1}, double limit = INFINITY) {
    HostTensor<double> scalars({kNumStepScalars}, 7.0);
    scalar(scalars, StepScalar::kLossLimit) = limit;
    std::vector<double> both;
    for (size_t i = 0; i < squares.size(); ++i) {
      both.push_back(squares[i]);
      both.push_back(losses[i]);
    }
    const auto P = static_cast<int64_t>(squares.size());
    auto norm_and_loss_P2 = host_tensor({P, 2}, std::move(both));
    backend.ops().clip_coefficient(kQueue, scalars, norm_and_loss_P2, max_norm);
    CHECK(scalar(scalars, StepScalar::kLearningRate) == 7);  // the others are left alone
    CHECK(scalar(scalars, StepScalar::kInverseTargetCount) == 7);
    CHECK(scalar(scalars, StepScalar::kLossLimit) == limit);
    return scalars;
  };
  auto large = clip({9, 16}, 2, {0.25, 0.75});
  CHECK(scalar(large, StepScalar::kLoss) == 7);
  CHECK(scalar(large, StepScalar::kGradNorm) == 5);
  CHECK_THAT(scalar(large, StepScalar::kClipCoefficient),
             Catch::Matchers::WithinRel(2 / (5 + 1e-6), 1e-14));
  CHECK(scalar(large, StepScalar::kSkipStep) == 0);
  auto small = clip({9, 16}, 6, {0, 0});
  CHECK(scalar(small, StepScalar::kClipCoefficient) == 1);
  auto off = clip({9, 16}, 0);
  CHECK(scalar(off, StepScalar::kClipCoefficient) == 1);
  CHECK(scalar(off, StepScalar::kGradNorm) == 5);
  auto nothing = clip({}, 1);
  CHECK(scalar(nothing, StepScalar::kGradNorm) == 0);
  CHECK(scalar(nothing, StepScalar::kSkipStep) == 0);
  auto infinite = clip({1, INFINITY}, 1);
  CHECK(scalar(infinite, StepScalar::kSkipStep) == 1);
  auto undefined = clip({kUnset<double>, 1}, 1);
  CHECK(scalar(undefined, StepScalar::kSkipStep) == 1);
  for (const double bad : {double{INFINITY}, -double{INFINITY}, kUnset<double>})
    for (const std::vector<double>& losses : {std::vector{bad, 0.0}, std::vector{0.0, bad}}) {
      auto loss = clip({9, 16}, 0, losses);
      CHECK(scalar(loss, StepScalar::kSkipStep) == 1);
    }
  auto leaps = clip({9, 16}, 2, {0.5, 0.75}, 8.5);
  CHECK(scalar(leaps, StepScalar::kLoss) == 8.75);  // 7 * 1.25
  CHECK(scalar(leaps, StepScalar::kSkipStep) == 1);
  auto at_limit = clip({9, 16}, 2, {0.5, 0.75}, 8.75);
  CHECK(scalar(at_limit, StepScalar::kSkipStep) == 0);
}
