#include "core/random.h"

#include <bit>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace switchyard {
namespace {

struct Words {
  uint32_t high, low;
};

Words multiply(uint32_t a, uint32_t b) {
  const uint64_t product = static_cast<uint64_t>(a) * b;
  return {static_cast<uint32_t>(product >> 32), static_cast<uint32_t>(product)};
}

double to_unit_interval(uint32_t high, uint32_t low) {
  const uint64_t bits = (static_cast<uint64_t>(high) << 32 | low) >> 11;
  return static_cast<double>(bits) * 0x1.0p-53;
}

}  // namespace

std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  std::array<uint32_t, 4> x = {
      static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
      static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  for (int round = 0; round < 10; ++round) {
    const Words a = multiply(0xD2511F53u, x[0]), b = multiply(0xCD9E8D57u, x[2]);
    x = {b.high ^ x[1] ^ k0, b.low, a.high ^ x[3] ^ k1, a.low};
    k0 += 0x9E3779B9u;  // golden ratio and sqrt(3) - 1: the key schedule of the paper
    k1 += 0xBB67AE85u;
  }
  return x;
}

uint64_t random_key(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over the name, then mixed with the seed by Philox
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  const auto words = philox(seed, hash);
  return static_cast<uint64_t>(words[0]) << 32 | words[1];
}

double random_uniform(uint64_t key, uint64_t index, uint64_t stream) {
  const auto words = philox(key, index, stream);
  return to_unit_interval(words[0], words[1]);
}

double random_normal(uint64_t key, uint64_t index, uint64_t stream) {
  const auto words = philox(key, index, stream);
  const double u = 1.0 - to_unit_interval(words[0], words[1]);  // (0, 1]: the log is finite
  const double angle = 2.0 * std::numbers::pi * to_unit_interval(words[2], words[3]);
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
