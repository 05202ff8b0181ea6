// Mutator: inputs that are nearly right. A pure function of corpus, seed and number of the input,
// so that each can be made again. Knows the outlines of JSON (numbers, strings, members) and of
// little-endian integers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace switchyard::fuzz {

constexpr size_t kMaxInputBytes = size_t{256} << 10;

std::string mutated_input(const std::vector<std::string>& corpus, uint64_t seed, uint64_t number);

}  // namespace switchyard::fuzz
