#include "backend/cuda/launch.cuh"
#include "backend/cuda/split_f32.h"
#include "backend/cuda/storage.cuh"

namespace switchyard::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;  // elements: one packet of each part

// The upper half of x, cut off rather than rounded: what is left is exact and never overflows.
__device__ __forceinline__ float cut_upper(float& x) {
  const float upper = __uint_as_float(__float_as_uint(x) & 0xFFFF0000u);
  if (!isfinite(x)) {  // stays what it is, in the first part
    const float all = x;
    x = 0;
    return all;
  }
  x -= upper;
  return upper;
}

// A thread splits 8 elements. Exact. Reads x, writes the parts: 10 bytes per element.
__global__ void __launch_bounds__(kThreads)
    split_f32_kernel(SplitF32 parts, const float* x, int64_t count, bool aligned) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t first = thread * kPerThread;
  if (aligned && first + kPerThread <= count) {
    const Packet<float> low = load_packet(x + first), high = load_packet(x + first + 4);
    float rest[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) rest[i] = i < 4 ? low.value[i % 4] : high.value[i % 4];
#pragma unroll
    for (BFloat16* part : parts.part) {
      Packet<BFloat16> packet;
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) packet.value[i] = cut_upper(rest[i]);
      store_packet(part + first, packet);
    }
    return;
  }
  for (int64_t i = first; i < count && i < first + kPerThread; ++i) {
    float rest = x[i];
    for (BFloat16* part : parts.part) store(part[i], cut_upper(rest));
  }
}

}  // namespace

void split_f32(cudaStream_t stream, const SplitF32& parts, const float* x, int64_t count) {
  launch(stream, split_f32_kernel, {blocks_for(count, kThreads * kPerThread), kThreads}, parts, x,
         count, fits_packets(0, x, parts.part[0], parts.part[1], parts.part[2]));
}

}  // namespace switchyard::cuda
