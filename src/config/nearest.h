// Numbers that would have worked, for messages about those that do not.
#pragma once

#include <cstdint>
#include <set>
#include <string>

namespace switchyard {

std::string listed(const std::set<int64_t>& values);  // "2, 4"

// The divisors of n next to `wanted`, below and above.
std::set<int64_t> nearest_divisors(int64_t n, int64_t wanted);

// The multiples of n next to `value`.
std::set<int64_t> nearest_multiples(int64_t n, int64_t value);

}  // namespace switchyard
