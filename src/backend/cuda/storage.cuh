// Storage and arithmetic in kernels: as backend/cpu/storage.h, and packets of 16 bytes, the widest
// access of a thread to global memory.
#pragma once

#include "backend/cuda/device.cuh"
#include "backend/dispatch.h"

namespace switchyard::cuda {

__device__ __forceinline__ float load(const float& x) { return x; }
__device__ __forceinline__ double load(const double& x) { return x; }
__device__ __forceinline__ float load(const BFloat16& x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}

__device__ __forceinline__ void store(float& y, float x) { y = x; }
__device__ __forceinline__ void store(double& y, double x) { y = x; }
__device__ __forceinline__ void store(BFloat16& y, float x) {
  y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

// As many elements as 16 bytes hold, in the type they are computed in.
template <typename Real>
struct Packet {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(Real));
  Compute<Real> value[kSize];
};

// Whether rows of so many bytes, one after another from these addresses, can be read in packets.
template <typename... Pointers>
inline bool fits_packets(int64_t row_bytes, Pointers... pointers) {
  return row_bytes % 16 == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// `source` and `target` are aligned to 16 bytes. One 16-byte access each: a struct of smaller
// members is what nvcc splits.
template <typename Real>
__device__ __forceinline__ Packet<Real> load_packet(const Real* source) {
  const uint4 word = *reinterpret_cast<const uint4*>(source);
  Packet<Real> packet;
  if constexpr (sizeof(Real) == 2) {
    const uint32_t words[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      packet.value[2 * i] = __uint_as_float(words[i] << 16);
      packet.value[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
    }
  } else if constexpr (sizeof(Real) == 4) {
    packet.value[0] = __uint_as_float(word.x);
    packet.value[1] = __uint_as_float(word.y);
    packet.value[2] = __uint_as_float(word.z);
    packet.value[3] = __uint_as_float(word.w);
  } else {
    packet.value[0] = __hiloint2double(static_cast<int>(word.y), static_cast<int>(word.x));
    packet.value[1] = __hiloint2double(static_cast<int>(word.w), static_cast<int>(word.z));
  }
  return packet;
}

__device__ __forceinline__ uint32_t two_bf16(float low, float high) {
  return static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(low))) |
         static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
}

template <typename Real>
__device__ __forceinline__ void store_packet(Real* target, const Packet<Real>& packet) {
  uint4 word;
  if constexpr (sizeof(Real) == 2) {
    word.x = two_bf16(packet.value[0], packet.value[1]);
    word.y = two_bf16(packet.value[2], packet.value[3]);
    word.z = two_bf16(packet.value[4], packet.value[5]);
    word.w = two_bf16(packet.value[6], packet.value[7]);
  } else if constexpr (sizeof(Real) == 4) {
    word.x = __float_as_uint(packet.value[0]);
    word.y = __float_as_uint(packet.value[1]);
    word.z = __float_as_uint(packet.value[2]);
    word.w = __float_as_uint(packet.value[3]);
  } else {
    word.x = static_cast<uint32_t>(__double2loint(packet.value[0]));
    word.y = static_cast<uint32_t>(__double2hiint(packet.value[0]));
    word.z = static_cast<uint32_t>(__double2loint(packet.value[1]));
    word.w = static_cast<uint32_t>(__double2hiint(packet.value[1]));
  }
  *reinterpret_cast<uint4*>(target) = word;
}

}  // namespace switchyard::cuda
