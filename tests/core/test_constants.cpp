// The compiler's own work: constants that begin with equal words and end in zeros
// (cmake/SwitchyardOptions.cmake says which compiler gets them wrong without help).
#include <cstdint>
#include <vector>

#include "support/catch.h"

namespace {

// Not inlined, so that the constant is copied as a block of memory.
[[gnu::noinline]] std::vector<int64_t> ends_in_one_zero() { return {2, 2, 2, 0}; }
[[gnu::noinline]] std::vector<int64_t> ends_in_two_zeros() { return {2, 2, 0, 0}; }
[[gnu::noinline]] std::vector<int32_t> ends_in_narrow_zeros() { return {1, 1, 1, 1, 1, 1, 0, 0}; }

template <class T>
T sum_of(const std::vector<T>& values) {
  T sum = 0;
  for (const T value : values) sum += value;
  return sum;
}

}  // namespace

TEST_CASE("constants keep the zeros at their end") {
  CHECK(sum_of(ends_in_one_zero()) == 6);
  CHECK(sum_of(ends_in_two_zeros()) == 4);
  CHECK(sum_of(ends_in_narrow_zeros()) == 6);
}
