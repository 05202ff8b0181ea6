// What the tests of Ops share: inputs that all dtypes agree on, comparisons, and the checks that
// every operation has to pass: f32 and bf16 against f64, and the same bits with any number of
// threads.
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
#include "backend/cpu/storage.h"
#include "backend/ops.h"
#include "support/catch.h"
#include "support/gradient_check.h"
#include "support/host_tensor.h"

namespace switchyard::test {

inline constexpr Queue kQueue{};
inline constexpr double kGradientBound = 1e-6;

// Outputs are made of this: an Op that reads what it should overwrite is found out.
template <typename Real>
inline constexpr Real kUnset = Real{std::numeric_limits<Compute<Real>>::quiet_NaN()};

// Elements of different types, compared and collected as f64.
template <typename T>
double to_double(T x) {
  return static_cast<double>(x);
}
inline double to_double(BFloat16 x) { return static_cast<double>(load(x)); }

// Normal numbers that bf16 holds exactly: all dtypes start from the same inputs.
template <typename Real>
HostTensor<Real> shared_random(std::string_view name, std::initializer_list<int64_t> shape,
                               double std = 1.0) {
  const auto wide = random_tensor<float>(name, shape, std);
  HostTensor<Real> tensor(shape);
  for (size_t i = 0; i < wide.values.size(); ++i)
    store(tensor.values[i], static_cast<Compute<Real>>(load(BFloat16(wide.values[i]))));
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
    const double a = to_double(actual[i]), b = to_double(expected[i]);
    if (std::isnan(a) || std::isnan(b)) return INFINITY;
    difference = std::max(difference, std::abs(a - b));
    scale = std::max(scale, std::abs(b));
  }
  if (difference == 0) return 0;
  return scale == 0 ? INFINITY : difference / scale;
}

// An output of one operation as f64, whatever it was computed in.
struct Output {
  DType dtype;
  std::vector<double> values;
};
using Outputs = std::vector<Output>;

template <typename T>
Output output(const HostTensor<T>& tensor) {
  Output result{DTypeOf<T>::value, {}};
  for (const T& value : tensor.values) result.values.push_back(to_double(value));
  return result;
}

template <typename... Tensors>
Outputs outputs(const Tensors&... tensors) {
  return {output(tensors)...};
}

inline bool same_bits(const Outputs& a, const Outputs& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Output& x, const Output& y) {
    return x.values.size() == y.values.size() &&
           (x.values.empty() ||
            std::memcmp(x.values.data(), y.values.data(), x.values.size() * sizeof(double)) == 0);
  });
}

// By how much `actual` misses `expected` beyond the one rounding to bf16, 2^-8 of each element;
// relative to the largest element. Infinite if the sizes differ or anything is NaN.
inline double error_beyond_rounding(const std::vector<double>& actual,
                                    const std::vector<double>& expected) {
  if (actual.size() != expected.size()) return INFINITY;
  double excess = 0, scale = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(actual[i]) || std::isnan(expected[i])) return INFINITY;
    excess = std::max(excess, std::abs(actual[i] - expected[i]) - 0x1p-8 * std::abs(expected[i]));
    scale = std::max(scale, std::abs(expected[i]));
  }
  if (excess == 0) return 0;
  return scale == 0 ? INFINITY : excess / scale;
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
    CHECK(relative_error(narrow[i].values, wide[i].values) <= bound);
  }
}

// run(ops, BFloat16{}): outputs of bf16 must be f64's, rounded once, but for `bound` of the largest
// element (the error of sums in f32); other outputs within `bound`. Any number of threads gives the
// same bits, if `same_with_threads`.
template <typename Run>
void check_bf16(double bound, const Run& run, bool same_with_threads = true) {
  CpuBackend backend(1);
  const Outputs narrow = run(backend.ops(), BFloat16{}), wide = run(backend.ops(), double{});
  REQUIRE(narrow.size() == wide.size());
  for (size_t i = 0; i < wide.size(); ++i) {
    INFO("output " << i);
    if (narrow[i].dtype == DType::kBF16)
      CHECK(error_beyond_rounding(narrow[i].values, wide[i].values) <= bound);
    else
      CHECK(relative_error(narrow[i].values, wide[i].values) <= bound);
  }
  for (const int threads : {2, 3, 4}) {
    if (!same_with_threads) break;
    INFO(threads << " threads");
    CpuBackend team(threads);
    CHECK(same_bits(run(team.ops(), BFloat16{}), narrow));
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
