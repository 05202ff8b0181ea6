// Gradient norm, clipping and AdamW on CUDA.
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

double& scalar(HostTensor<double>& scalars, StepScalar which) {
  return scalars.values[static_cast<size_t>(which)];
}

Tensor without_first(Tensor x) { return x.rows(1, x.dim(0) - 1); }

HostTensor<double> step_scalars(bool skip) {
  HostTensor<double> scalars({kNumStepScalars}, 0.0);
  scalar(scalars, StepScalar::kLearningRate) = 0.01;
  scalar(scalars, StepScalar::kBiasCorrection1) = 0.271;
  scalar(scalars, StepScalar::kBiasCorrection2) = 0.143;
  scalar(scalars, StepScalar::kClipCoefficient) = 0.7;
  scalar(scalars, StepScalar::kSkipStep) = skip ? 1 : 0;
  return scalars;
}

// Two steps on ranges of n that begin at an aligned address or not. With `rounded`, in f32 for
// BFloat16 too: the weights in bf16 are an output.
template <typename Real>
Outputs adamw(Ops& ops, Placement& place, int64_t n, bool shift, bool rounded, bool skip) {
  using Acc = Compute<Real>;
  auto weight = shared_random<Acc>("weight", {n + 1}), m = shared_random<Acc>("m", {n + 1}, 0.1),
       v = shared_random<Acc>("v", {n + 1}, 0.1), gradient = shared_random<Acc>("g", {n + 1});
  for (Acc& value : v.values) value = std::abs(value);
  HostTensor<BFloat16> narrow({n + 1});
  auto scalars = step_scalars(skip);
  const auto range = [&](Tensor x) { return shift ? without_first(x) : x.rows(0, n); };
  Tensor w_n = place(weight), m_n = place(m), v_n = place(v), g_n = place(gradient),
         narrow_n = place(narrow), step = place(scalars);
  for (int i = 0; i < 2; ++i)
    ops.adamw(kQueue, range(w_n), rounded ? range(narrow_n) : Tensor(), range(m_n), range(v_n),
              range(g_n), step, 0.9, 0.95, 1e-8, 0.1);
  place.fetch(weight, w_n);
  place.fetch(m, m_n);
  place.fetch(v, v_n);
  place.fetch(narrow, narrow_n);
  if (rounded && !skip)
    for (size_t i = shift ? 1 : 0; i < static_cast<size_t>(n) + (shift ? 1 : 0); ++i)
      REQUIRE(narrow.values[i].bits == BFloat16(static_cast<float>(weight.values[i])).bits);
  return outputs(weight, m, v);
}

}  // namespace

TEST_CASE("AdamW, on ranges at any address") {
  for (const int64_t n : {0, 1, 7, 8, 9, 1000, 70001})
    for (const bool shift : {false, true})
      check_on_cuda(2e-7, [&](Ops& ops, Placement& place, auto zero) {
        return adamw<decltype(zero)>(ops, place, n, shift, false, false);
      });
}

TEST_CASE("AdamW with a master copy rounds its weights to bf16") {
  for (const int64_t n : {1, 8, 9, 5003})
    for (const bool shift : {false, true})
      for (const bool skip : {false, true}) {
        CpuBackend cpu(1);
        CudaDevice device(0);
        CudaOps ops(device);
        Placement host(nullptr), there(device.stream({}));
        const Outputs expected = adamw<float>(cpu.ops(), host, n, shift, true, skip);
        const Outputs actual = adamw<float>(ops, there, n, shift, true, skip);
        for (size_t i = 0; i < expected.size(); ++i)
          CHECK(relative_error(actual[i].values, expected[i].values) <= (skip ? 0 : 2e-7));
      }
}

TEST_CASE("AdamW does nothing in a step that is skipped, whatever the gradient") {
  CudaDevice device(0);
  CudaOps ops(device);
  Placement place(device.stream({}));
  auto weight = random_tensor<float>("weight", {100}), m = random_tensor<float>("m", {100}),
       v = random_tensor<float>("v", {100});
  const auto before = weight.values, m_before = m.values, v_before = v.values;
  HostTensor<float> gradient({100}, kUnset<float>);
  HostTensor<BFloat16> narrow({100}, BFloat16(7));
  auto scalars = step_scalars(true);
  Tensor w_n = place(weight), m_n = place(m), v_n = place(v), narrow_n = place(narrow);
  ops.adamw(kQueue, w_n, narrow_n, m_n, v_n, place(gradient), place(scalars), 0.9, 0.95, 1e-8, 0.1);
  place.fetch(weight, w_n);
  place.fetch(m, m_n);
  place.fetch(v, v_n);
  place.fetch(narrow, narrow_n);
  CHECK(weight.values == before);
  CHECK(m.values == m_before);
  CHECK(v.values == v_before);
  CHECK(narrow.values == std::vector<BFloat16>(100, BFloat16(7)));
}

TEST_CASE("sums of squares are f64, whatever is summed") {
  for (const int64_t n : {0, 1, 7, 8, 1025, 100000})
    for (const bool shift : {false, true})
      check_on_cuda(1e-13, [&](Ops& ops, Placement& place, auto zero) {
        using Real = decltype(zero);
        auto x = shared_random<Real>("x", {n + 1});
        HostTensor<double> sum({1}, 2.0);
        Tensor total = place(sum), x_n = place(x);
        ops.squared_norm_add(kQueue, total, shift ? without_first(x_n) : x_n.rows(0, n));
        ops.squared_norm_add(kQueue, total, x_n);
        place.fetch(sum, total);
        return outputs(sum);
      });
  check_on_cuda(1e-6, [](Ops& ops, Placement& place, auto) {  // beyond f32
    HostTensor<float> x({9}, 1e30f);
    HostTensor<double> sum({1}, 0.0);
    Tensor total = place(sum);
    ops.squared_norm_add(kQueue, total, place(x));
    place.fetch(sum, total);
    return outputs(sum);
  });
}

TEST_CASE("the norm, the coefficient and the step to skip") {
  CpuBackend cpu(1);
  CudaDevice device(0);
  CudaOps ops(device);
  const auto scalars_after = [](Ops& on, Placement& place, std::vector<double> sums,
                                double max_norm, double limit) {
    HostTensor<double> scalars({kNumStepScalars}, 7.0);
    scalar(scalars, StepScalar::kLossLimit) = limit;
    const auto P = static_cast<int64_t>(sums.size()) / 2;
    auto norm_and_loss = host_tensor<double>({P, 2}, std::move(sums));
    Tensor step = place(scalars);
    on.clip_coefficient(kQueue, step, place(norm_and_loss), max_norm);
    place.fetch(scalars, step);
    return scalars.values;
  };
  const double nan = kUnset<double>, infinity = INFINITY;
  const std::vector<std::vector<double>> all_sums = {{9, 1},   {9, 0.25, 16, 0.75},     {0, 0},
                                                     {nan, 1}, {infinity, 1},           {1, nan},
                                                     {-1, 2},  {1, 2, 3, 4, 5, 6, 7, 8}};
  for (const auto& sums : all_sums)
    for (const double max_norm : {0.0, 2.0, 100.0})
      for (const double limit : {infinity, 7.0}) {
        Placement host(nullptr), there(device.stream({}));
        const auto expected = scalars_after(cpu.ops(), host, sums, max_norm, limit);
        const auto actual = scalars_after(ops, there, sums, max_norm, limit);
        for (size_t i = 0; i < expected.size(); ++i) {
          INFO("scalar " << i << ", first sum " << sums[0]);
          if (std::isnan(expected[i]) || std::isinf(expected[i]))
            CHECK(std::memcmp(&actual[i], &expected[i], sizeof(double)) == 0);
          else
            CHECK_THAT(actual[i], Catch::Matchers::WithinRel(expected[i], 1e-15));
        }
      }
}
