// Sums and maxima of a warp and of a block, in a fixed order: the same inputs give the same bits.
#pragma once

#include "backend/cuda/device.cuh"

namespace switchyard::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kWholeWarp = 0xFFFFFFFFu;

__device__ __forceinline__ int lane_of_thread() {
  return static_cast<int>(threadIdx.x) % kWarpSize;
}
__device__ __forceinline__ int warp_of_thread() {
  return static_cast<int>(threadIdx.x) / kWarpSize;
}

// Over kLanes neighbouring lanes, a power of two, each of which gets the result. No x is NaN where
// a maximum is asked for.
template <int kLanes = kWarpSize, typename T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    x += __shfl_xor_sync(kWholeWarp, x, distance);
  return x;
}
template <int kLanes = kWarpSize, typename T>
__device__ __forceinline__ T warp_max(T x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(kWholeWarp, x, distance);
    x = other > x ? other : x;
  }
  return x;
}

// Every thread of a block of kThreads (a multiple of 32) gets the result; all of them call.
template <int kThreads, typename T>
__device__ __forceinline__ T block_sum(T x) {
  constexpr int kWarps = kThreads / kWarpSize;
  SHARED_ARRAY(T, of_warp, kWarps);
  x = warp_sum(x);
  if (threadIdx.x % kWarpSize == 0) of_warp[threadIdx.x / kWarpSize] = x;
  __syncthreads();
  x = T{0};
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) x += of_warp[warp];
  __syncthreads();  // of_warp is free for the next call
  return x;
}

// As block_sum.
template <int kThreads, typename T>
__device__ __forceinline__ T block_max(T x) {
  constexpr int kWarps = kThreads / kWarpSize;
  SHARED_ARRAY(T, of_warp, kWarps);
  x = warp_max(x);
  if (threadIdx.x % kWarpSize == 0) of_warp[threadIdx.x / kWarpSize] = x;
  __syncthreads();
  x = of_warp[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) x = of_warp[warp] > x ? of_warp[warp] : x;
  __syncthreads();  // of_warp is free for the next call
  return x;
}

}  // namespace switchyard::cuda
