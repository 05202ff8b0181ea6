#include "core/random.h"

#include <bit>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace switchyard {

uint64_t random_key(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over the name, then mixed with the seed by Philox
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  const auto words = philox(seed, hash);
  return static_cast<uint64_t>(words[0]) << 32 | words[1];
}

double random_normal(uint64_t key, uint64_t index, uint64_t stream) {
  const auto words = philox(key, index, stream);
  const double u = 1.0 - unit_interval(words[0], words[1]);  // (0, 1]: the log is finite
  const double angle = 2.0 * std::numbers::pi * unit_interval(words[2], words[3]);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(angle);
}

uint64_t random_permutation(uint64_t key, uint64_t index, uint64_t size) {
  SY_CHECK(index < size, "index {} of a permutation of {}", index, size);
  if (size == 1) return 0;
  // Balanced Feistel network over the smallest even number of bits that holds `size`; positions
  // outside [0, size) are walked on until they fall inside, which keeps it a bijection.
  const int half_bits = (static_cast<int>(std::bit_width(size - 1)) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  do {
    uint64_t left = index >> half_bits, right = index & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t mixed = left ^ (philox(key, right, round)[0] & mask);
      left = right;
      right = mixed;
    }
    index = left << half_bits | right;
  } while (index >= size);
  return index;
}

}  // namespace switchyard
