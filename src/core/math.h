// Integer arithmetic that must not be silently wrong.
#pragma once

#include <cstdint>

#include "core/error.h"

namespace switchyard {

// a / b, which must be exact.
constexpr int64_t div_exact(int64_t a, int64_t b) {
  SY_CHECK(b != 0 && a % b == 0, "{} is not divisible by {}", a, b);
  return a / b;
}

constexpr int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t multiple) { return div_up(a, multiple) * multiple; }

}  // namespace switchyard
