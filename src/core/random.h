// Random: counter-based random numbers (Philox4x32-10, Salmon et al., SC'11). A number is a pure
// function of (key, counter): anything random is keyed on *names and global indices*, never on
// ranks or on the order of calls, so that every layout sees the same values.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace switchyard {

// Four independent 32-bit words for each (key, counter). Like the uniform numbers, constexpr:
// kernels call it too.
constexpr std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_low,
                                         uint64_t counter_high = 0) {
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  std::array<uint32_t, 4> x = {
      static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
      static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * x[0], b = uint64_t{0xCD9E8D57u} * x[2];
    x = {static_cast<uint32_t>(b >> 32) ^ x[1] ^ k0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ x[3] ^ k1, static_cast<uint32_t>(a)};
    k0 += 0x9E3779B9u;  // golden ratio and sqrt(3) - 1: the key schedule of the paper
    k1 += 0xBB67AE85u;
  }
  return x;
}

// [0, 1), of the upper 53 bits of two words.
constexpr double unit_interval(uint32_t high, uint32_t low) {
  const uint64_t bits = (static_cast<uint64_t>(high) << 32 | low) >> 11;
  return static_cast<double>(bits) * 0x1.0p-53;
}

// A key for one named stream of one run: every (seed, name) pair has a stream of its own.
uint64_t random_key(uint64_t seed, std::string_view name);

// Uniform in [0, 1) with 53 bits; number `index` of the stream.
constexpr double random_uniform(uint64_t key, uint64_t index, uint64_t stream = 0) {
  const auto words = philox(key, index, stream);
  return unit_interval(words[0], words[1]);
}

// Standard normal (Box-Muller); number `index` of the stream.
double random_normal(uint64_t key, uint64_t index, uint64_t stream = 0);

// Position of `index` in a pseudo-random permutation of [0, size) (Feistel network with cycle
// walking): shuffling without a table.
uint64_t random_permutation(uint64_t key, uint64_t index, uint64_t size);

}  // namespace switchyard
