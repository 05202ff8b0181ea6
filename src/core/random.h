// Random: counter-based random numbers (Philox4x32-10, Salmon et al., SC'11). A number is a pure
// function of (key, counter): anything random is keyed on *names and global indices*, never on
// ranks or on the order of calls, so that every layout sees the same values.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace switchyard {

// Four independent 32-bit words for each (key, counter).
std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_low, uint64_t counter_high = 0);

// A key for one named stream of one run: every (seed, name) pair has a stream of its own.
uint64_t random_key(uint64_t seed, std::string_view name);

// Uniform in [0, 1) with 53 bits; number `index` of the stream.
double random_uniform(uint64_t key, uint64_t index, uint64_t stream = 0);

// Standard normal (Box-Muller); number `index` of the stream.
double random_normal(uint64_t key, uint64_t index, uint64_t stream = 0);

// Position of `index` in a pseudo-random permutation of [0, size) (Feistel network with cycle
// walking): shuffling without a table.
uint64_t random_permutation(uint64_t key, uint64_t index, uint64_t size);

}  // namespace switchyard
