// DType: the element types of tensors.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/error.h"

namespace switchyard {

enum class DType : uint8_t { kF32, kF64, kI32, kI64, kU8 };

struct DTypeTraits {
  const char* name;
  size_t bytes;
};
inline constexpr std::array<DTypeTraits, 5> kDTypeTraits = {  // in the order of DType
    {{"f32", 4}, {"f64", 8}, {"i32", 4}, {"i64", 8}, {"u8", 1}}};

constexpr size_t size_in_bytes(DType dtype) {
  return kDTypeTraits[static_cast<size_t>(dtype)].bytes;
}
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
struct DTypeOf<int32_t> : DTypeConstant<DType::kI32> {};
template <>
struct DTypeOf<int64_t> : DTypeConstant<DType::kI64> {};
template <>
struct DTypeOf<uint8_t> : DTypeConstant<DType::kU8> {};

}  // namespace switchyard
