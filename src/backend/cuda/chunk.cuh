// Chunks: the neighbouring elements that a thread takes at a time. Their number kWidth is that of
// one or more packets, or 1 where addresses are not aligned for packets; a kernel is written once,
// for any kWidth.
#pragma once

#include <type_traits>

#include "backend/cuda/launch.cuh"
#include "backend/cuda/storage.cuh"

namespace switchyard::cuda {

// In the type they are computed in.
template <typename T, int kWidth>
struct Chunk {
  T value[kWidth];
};

template <int kWidth, typename Real>
__device__ __forceinline__ Chunk<Compute<Real>, kWidth> load_chunk(const Real* source) {
  Chunk<Compute<Real>, kWidth> chunk;
  if constexpr (kWidth == 1) {
    chunk.value[0] = load(*source);
  } else {
    constexpr int kSize = Packet<Real>::kSize;
    static_assert(kWidth % kSize == 0);
#pragma unroll
    for (int first = 0; first < kWidth; first += kSize) {
      const Packet<Real> packet = load_packet(source + first);
#pragma unroll
      for (int i = 0; i < kSize; ++i) chunk.value[first + i] = packet.value[i];
    }
  }
  return chunk;
}

template <int kWidth, typename Real>
__device__ __forceinline__ void store_chunk(Real* target,
                                            const Chunk<Compute<Real>, kWidth>& chunk) {
  if constexpr (kWidth == 1) {
    store(*target, chunk.value[0]);
  } else {
    constexpr int kSize = Packet<Real>::kSize;
    static_assert(kWidth % kSize == 0);
#pragma unroll
    for (int first = 0; first < kWidth; first += kSize) {
      Packet<Real> packet;
#pragma unroll
      for (int i = 0; i < kSize; ++i) packet.value[i] = chunk.value[first + i];
      store_packet(target + first, packet);
    }
  }
}

// The grid for a flat range of n elements: a function of n, so that sums over it are too.
inline constexpr int kFlatThreads = 256;
inline LaunchShape flat_shape(int64_t n, int width) {
  constexpr int64_t kChunksPerThread = 4;  // at least, before the range gets another block
  return {striding_blocks(n, kFlatThreads * kChunksPerThread * width), kFlatThreads};
}

// Of a flat range of n elements, for a grid of any size: body(i, width) for chunks of kWidth at i,
// and of 1 for those that are left over. `width` is a std::integral_constant.
template <int kWidth, typename Body>
__device__ __forceinline__ void for_each_chunk(int64_t n, const Body& body) {
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t chunk = thread; chunk < n / kWidth; chunk += stride)
    body(chunk * kWidth, std::integral_constant<int, kWidth>{});
  const int64_t rest = n / kWidth * kWidth + thread;  // fewer than a block has threads
  if (rest < n) body(rest, std::integral_constant<int, 1>{});
}

// Calls function(std::integral_constant<int, width>{}): width is kWidth where packets fit, else 1.
template <int kWidth, typename Function>
void with_width(bool packets_fit, const Function& function) {
  if (packets_fit)
    function(std::integral_constant<int, kWidth>{});
  else
    function(std::integral_constant<int, 1>{});
}

}  // namespace switchyard::cuda
