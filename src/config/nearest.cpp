#include "config/nearest.h"

#include <fmt/format.h>

#include <algorithm>

namespace switchyard {

std::string listed(const std::set<int64_t>& values) {
  return fmt::format("{}", fmt::join(values, ", "));
}

std::set<int64_t> nearest_divisors(int64_t n, int64_t wanted) {
  int64_t below = 0, above = 0;  // 0: none
  const auto consider = [&](int64_t divisor) {
    if (divisor <= wanted) below = std::max(below, divisor);
    if (divisor >= wanted && (above == 0 || divisor < above)) above = divisor;
  };
  for (int64_t d = 1; d <= n / d; ++d) {
    if (n % d != 0) continue;
    consider(d);
    consider(n / d);
  }
  std::set<int64_t> nearest = {below, above};
  nearest.erase(0);
  return nearest;
}

std::set<int64_t> nearest_multiples(int64_t n, int64_t value) {
  std::set<int64_t> nearest = {(value / n + 1) * n};
  if (value >= n) nearest.insert(value / n * n);
  return nearest;
}

}  // namespace switchyard
