// choose_largest: the top-k of one token by one warp, in the order of backend/cpu/choose.h.
#pragma once

#include <bit>
#include <climits>
#include <cstdint>

#include "backend/cuda/reduce.cuh"

namespace switchyard::cuda {

// Keys as integers in the same order: NaN is below all numbers, a key that was taken below NaN.
inline constexpr uint64_t kTakenKey = 0, kNanKey = 1;

__device__ __forceinline__ uint64_t key_of(double number) {
  if (number != number) return kNanKey;
  const auto bits = std::bit_cast<uint64_t>(number + 0.0);  // -0 becomes 0, its equal
  return bits >> 63 != 0 ? ~bits : bits | uint64_t{1} << 63;
}

__device__ __forceinline__ double number_of(uint64_t key) {
  const uint64_t bits = key >> 63 != 0 ? key ^ uint64_t { 1 } << 63 : ~key;
  return std::bit_cast<double>(bits);  // of kNanKey, a NaN
}

struct BestKey {
  uint64_t key = kTakenKey;
  int index = INT_MAX;
};

// The larger key, the lower index among equals.
__device__ __forceinline__ BestKey better_of(const BestKey& a, const BestKey& b) {
  return b.key > a.key || (b.key == a.key && b.index < a.index) ? b : a;
}

__device__ __forceinline__ BestKey warp_best(BestKey best) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    BestKey other;
    other.key = __shfl_xor_sync(kWholeWarp, best.key, distance);
    other.index = __shfl_xor_sync(kWholeWarp, best.index, distance);
    best = better_of(best, other);
  }
  return best;
}

// Of the keys that this lane looks after: those at lane, lane + 32, ...
__device__ __forceinline__ BestKey best_of_lane(const uint64_t* key, int n) {
  BestKey best;
  for (int i = lane_of_thread(); i < n; i += kWarpSize)
    if (key[i] > best.key) best = {key[i], i};
  return best;
}

// Takes the `count` largest of key[0, n), largest first, the lower index first among equals: they
// become kTakenKey, and chosen[a] (if not null) their indices. The whole warp calls; a lane has
// written, and reads, only the keys it looks after. A choice costs five exchanges, and one lane
// looks through its keys again.
__device__ __forceinline__ void choose_largest(int32_t* chosen, uint64_t* key, int n, int count) {
  const int lane = lane_of_thread();
  BestKey own = best_of_lane(key, n);
  for (int a = 0; a < count; ++a) {
    const int index = warp_best(own).index;
    if (chosen != nullptr && lane == 0) chosen[a] = index;
    if (index % kWarpSize != lane) continue;
    key[index] = kTakenKey;
    own = best_of_lane(key, n);
  }
  __syncwarp();
}

}  // namespace switchyard::cuda
