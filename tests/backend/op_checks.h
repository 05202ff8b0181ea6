// What the tests of Ops share: inputs that f32 and f64 agree on, comparisons, and the two checks
// that every operation has to pass: f32 against f64, and the same bits with any number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <string_view>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/ops.h"
#include "support/catch.h"
#include "support/gradient_check.h"
#include "support/host_tensor.h"

namespace switchyard::test {

inline constexpr Queue kQueue{};
inline constexpr double kGradientBound = 1e-6;

// Outputs are made of this: an Op that reads what it should overwrite is found out.
template <typename Real>
inline constexpr Real kUnset = std::numeric_limits<Real>::quiet_NaN();

// Normal numbers that f32 holds exactly: both dtypes start from the same inputs.
template <typename Real>
HostTensor<Real> shared_random(std::string_view name, std::initializer_list<int64_t> shape,
                               double std = 1.0) {
  const auto narrow = random_tensor<float>(name, shape, std);
  HostTensor<Real> tensor(shape);
  std::copy(narrow.values.begin(), narrow.values.end(), tensor.values.begin());
  return tensor;
}

template <typename Real>
HostTensor<Real> host_tensor(std::initializer_list<int64_t> shape, std::vector<Real> values) {
  HostTensor<Real> tensor(shape);
  REQUIRE(tensor.values.size() == values.size());
  tensor.values = std::move(values);
  return tensor;
}

template <typename A, typename B>
double dot(const std::vector<A>& a, const std::vector<B>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// max |actual - expected| / max |expected|; infinite if the sizes differ or anything is NaN.
template <typename A, typename B>
double relative_error(const std::vector<A>& actual, const std::vector<B>& expected) {
  if (actual.size() != expected.size()) return INFINITY;
  double difference = 0, scale = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double a = static_cast<double>(actual[i]), b = static_cast<double>(expected[i]);
    if (std::isnan(a) || std::isnan(b)) return INFINITY;
    difference = std::max(difference, std::abs(a - b));
    scale = std::max(scale, std::abs(b));
  }
  if (difference == 0) return 0;
  return scale == 0 ? INFINITY : difference / scale;
}

// The outputs of one operation as f64, whatever it computed in.
using Outputs = std::vector<std::vector<double>>;

template <typename... Tensors>
Outputs outputs(const Tensors&... tensors) {
  return {std::vector<double>(tensors.values.begin(), tensors.values.end())...};
}

inline bool same_bits(const Outputs& a, const Outputs& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.size() == y.size() &&
           (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(double)) == 0);
  });
}

// run(ops, float{}) or run(ops, double{}) returns the Outputs. Every one of f32 must be within
// `bound` of f64's, relative to its largest element.
template <typename Run>
void check_f32(double bound, const Run& run) {
  CpuBackend backend(1);
  const Outputs narrow = run(backend.ops(), float{}), wide = run(backend.ops(), double{});
  REQUIRE(narrow.size() == wide.size());
  for (size_t i = 0; i < wide.size(); ++i) {
    INFO("output " << i);
    CHECK(relative_error(narrow[i], wide[i]) <= bound);
  }
}

// Who computes what must not show in the bits.
template <typename Run>
void check_thread_counts(const Run& run) {
  CpuBackend alone(1);
  const Outputs narrow = run(alone.ops(), float{}), wide = run(alone.ops(), double{});
  for (const int threads : {2, 3, 4}) {
    INFO(threads << " threads");
    CpuBackend team(threads);
    CHECK(same_bits(run(team.ops(), float{}), narrow));
    CHECK(same_bits(run(team.ops(), double{}), wide));
  }
}

// `analytic` is the gradient of `loss` with respect to x.
inline void check_gradient(const char* name, HostTensor<double>& x,
                           const std::vector<double>& analytic, const std::function<double()>& loss,
                           size_t max_elements = SIZE_MAX) {
  INFO("gradient of " << name);
  CHECK(gradient_error(analytic, numeric_gradient(x.values, loss, max_elements)) <= kGradientBound);
}

}  // namespace switchyard::test
