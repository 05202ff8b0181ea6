#include "config/nearest.h"

#include <fmt/format.h>

namespace switchyard {

std::string listed(const std::set<int64_t>& values) {
  return fmt::format("{}", fmt::join(values, ", "));
}

std::set<int64_t> nearest_divisors(int64_t n, int64_t wanted) {
  std::set<int64_t> nearest;
  for (int64_t d = std::min(wanted, n); d >= 1 && nearest.empty(); --d)
    if (n % d == 0) nearest.insert(d);
  for (int64_t d = std::max<int64_t>(wanted, 1); d <= n; ++d)
    if (n % d == 0) {
      nearest.insert(d);
      break;
    }
  return nearest;
}

std::set<int64_t> nearest_multiples(int64_t n, int64_t value) {
  std::set<int64_t> nearest = {(value / n + 1) * n};
  if (value >= n) nearest.insert(value / n * n);
  return nearest;
}

}  // namespace switchyard
