// DType: the element types of tensors.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "core/error.h"

namespace switchyard {

enum class DType : uint8_t { kF32, kF64, kBF16, kI32, kI64, kU8 };

// The upper half of an f32: storage only, arithmetic is f32. Rounds to nearest, ties to even; NaN
// stays NaN.
struct BFloat16 {
  uint16_t bits = 0;

  BFloat16() = default;
  constexpr explicit BFloat16(float value) : bits(rounded(value)) {}
  constexpr explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
  bool operator==(const BFloat16&) const = default;  // of the bits

  // The bits nearest to `value`.
  static constexpr uint16_t rounded(float value) {
    const auto word = std::bit_cast<uint32_t>(value);
    const uint32_t nearest = (word + 0x7FFFu + ((word >> 16) & 1u)) >> 16;
    const bool is_nan = (word & 0x7FFFFFFFu) > 0x7F800000u;
    return static_cast<uint16_t>(is_nan ? (word >> 16) | 0x0040u : nearest);
  }
};
static_assert(sizeof(BFloat16) == 2);

struct DTypeTraits {
  const char* name;
  size_t bytes;
};
inline constexpr std::array<DTypeTraits, 6> kDTypeTraits = {  // in the order of DType
    {{"f32", 4}, {"f64", 8}, {"bf16", 2}, {"i32", 4}, {"i64", 8}, {"u8", 1}}};

constexpr size_t size_in_bytes(DType dtype) {
  return kDTypeTraits[static_cast<size_t>(dtype)].bytes;
}
// What sums, statistics and gradients of tensors of `real` are held in: f32 for bf16.
constexpr DType accumulator_of(DType real) { return real == DType::kBF16 ? DType::kF32 : real; }
constexpr const char* name_of(DType dtype) { return kDTypeTraits[static_cast<size_t>(dtype)].name; }

// DTypeOf<float>::value == DType::kF32, ...
template <DType kDType>
struct DTypeConstant {
  static constexpr DType value = kDType;
};
template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> : DTypeConstant<DType::kF32> {};
template <>
struct DTypeOf<double> : DTypeConstant<DType::kF64> {};
template <>
struct DTypeOf<BFloat16> : DTypeConstant<DType::kBF16> {};
template <>
struct DTypeOf<int32_t> : DTypeConstant<DType::kI32> {};
template <>
struct DTypeOf<int64_t> : DTypeConstant<DType::kI64> {};
template <>
struct DTypeOf<uint8_t> : DTypeConstant<DType::kU8> {};

}  // namespace switchyard
