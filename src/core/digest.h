// Digests: the sum, modulo 2^64, over the elements of a tensor of digest_term(index, bits), in any
// order and in any parts. An element that changes always changes the sum; elements that trade
// places, or are left out, do too, but for one case in 2^64. Test: tests/checkpoint/test_boxes.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace switchyard {

// The multiplier is that of the golden ratio, the finaliser Stafford's variant 13 of MurmurHash3's:
// for a given index a bijection of the bits. constexpr: kernels call it too.
constexpr uint64_t digest_term(uint64_t index, uint64_t bits) {
  uint64_t x = bits + index * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Of `count` elements as wide as Word, at any address, the first of which is element `first_index`.
template <typename Word>
uint64_t digest_of_run(const std::byte* bytes, int64_t first_index, int64_t count) {
  const auto first = static_cast<uint64_t>(first_index);
  uint64_t sum = 0;
  for (uint64_t i = 0; i < static_cast<uint64_t>(count); ++i) {
    Word word;
    std::memcpy(&word, bytes + i * sizeof(Word), sizeof(Word));
    sum += digest_term(first + i, word);
  }
  return sum;
}

// Calls function(word) with a uint8_t, uint16_t, uint32_t or uint64_t as wide as an element.
template <typename Function>
void with_word(size_t element_bytes, const Function& function) {
  switch (element_bytes) {
    case 1:
      return function(uint8_t{});
    case 2:
      return function(uint16_t{});
    case 4:
      return function(uint32_t{});
    default:
      return function(uint64_t{});
  }
}

}  // namespace switchyard
