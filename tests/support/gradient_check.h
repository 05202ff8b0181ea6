// Central differences in f64: the independent truth for every hand-written backward.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

namespace switchyard::test {

// The gradient of `loss` with respect to `x`, by the five-point stencil (error h^4). `loss` reads x
// afresh at each call. At most `max_elements` of x are probed, evenly spread; others are NaN.
inline std::vector<double> numeric_gradient(std::span<double> x,
                                            const std::function<double()>& loss,
                                            size_t max_elements = SIZE_MAX, double h = 1e-3) {
  std::vector<double> gradient(x.size(), std::nan(""));
  const size_t stride = std::max<size_t>(1, x.size() / std::max<size_t>(1, max_elements));
  for (size_t i = 0; i < x.size(); i += stride) {
    const double x0 = x[i];
    const auto at = [&](double offset) {
      x[i] = x0 + offset;
      return loss();
    };
    gradient[i] = (at(-2 * h) - 8 * at(-h) + 8 * at(h) - at(2 * h)) / (12 * h);
    x[i] = x0;
  }
  return gradient;
}

// max |a - b| / max |b| over the probed elements; `numeric` comes from numeric_gradient.
// When every b is exactly zero, so must every a be: then 0 or infinity.
inline double gradient_error(std::span<const double> analytic, std::span<const double> numeric) {
  double difference = 0, scale = 0;
  for (size_t i = 0; i < analytic.size(); ++i) {
    if (std::isnan(numeric[i])) continue;
    if (std::isnan(analytic[i])) return INFINITY;
    difference = std::max(difference, std::abs(analytic[i] - numeric[i]));
    scale = std::max(scale, std::abs(numeric[i]));
  }
  if (scale == 0) return difference == 0 ? 0 : INFINITY;
  return difference / scale;
}

}  // namespace switchyard::test
