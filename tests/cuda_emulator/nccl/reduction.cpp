#include "nccl/reduction.h"

#include <algorithm>
#include <cstdint>

#include "engine/engine.h"
#include "nccl/group.h"

namespace cuda_emulator::nccl {
namespace {

// Calls function(T{}) for the type of that name.
template <typename Function>
void with_type(ncclDataType_t type, const Function& function) {
  switch (type) {
    case ncclInt8:
      return function(int8_t{});
    case ncclUint8:
      return function(uint8_t{});
    case ncclInt32:
      return function(int32_t{});
    case ncclUint32:
      return function(uint32_t{});
    case ncclInt64:
      return function(int64_t{});
    case ncclUint64:
      return function(uint64_t{});
    case ncclFloat32:
      return function(float{});
    case ncclFloat64:
      return function(double{});
    case ncclBfloat16:
      return function(__nv_bfloat16{});
    default:
      fail("NCCL: a reduction of %s is not emulated", name_of(type));
  }
}

template <typename T>
struct ArithmeticType {
  using Type = T;
};
template <>
struct ArithmeticType<__nv_bfloat16> {
  using Type = float;
};

template <typename T>
T combined(T a, T b, ncclRedOp_t op) {
  switch (op) {
    case ncclSum:
    case ncclAvg:
      return static_cast<T>(a + b);
    case ncclProd:
      return static_cast<T>(a * b);
    case ncclMax:
      return std::max(a, b);
    case ncclMin:
      return std::min(a, b);
    default:
      fail("NCCL: reduction %d is not emulated", static_cast<int>(op));
  }
}

}  // namespace

void reduce_into(void* total, const void* values, size_t count, ncclDataType_t type,
                 ncclRedOp_t op) {
  with_type(type, [&](auto sample) {
    using T = decltype(sample);
    using Wide = typename ArithmeticType<T>::Type;
    auto* const sums = static_cast<T*>(total);
    const auto* const terms = static_cast<const T*>(values);
    for (size_t i = 0; i < count; ++i)
      sums[i] =
          static_cast<T>(combined(static_cast<Wide>(sums[i]), static_cast<Wide>(terms[i]), op));
  });
}

void divide(void* total, size_t count, ncclDataType_t type, int by) {
  with_type(type, [&](auto sample) {
    using T = decltype(sample);
    using Wide = typename ArithmeticType<T>::Type;
    auto* const sums = static_cast<T*>(total);
    for (size_t i = 0; i < count; ++i)
      sums[i] = static_cast<T>(static_cast<Wide>(sums[i]) / static_cast<Wide>(by));
  });
}

}  // namespace cuda_emulator::nccl
