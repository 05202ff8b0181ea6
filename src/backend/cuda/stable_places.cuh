// Stable places: where items go that are to be grouped by bin and keep their order within a bin (a
// counting sort, by histogram, scan and places), without atomics. The items of a group are cut into
// chunks, one warp each:
//   1. a histogram of every chunk;   2. for every bin, sums over the chunks before;
//   3. every chunk again: an item's place is the start of its bin + its bin's items in the chunks
//      before + those before it in its own.
// `Items` says what is grouped, in groups that are sorted each for itself:
//   int bin(group, i)                  of item i; -1: the item goes nowhere
//   void start(group, bin, start, total)   told once for every bin, if kHasStarts; total[bin] items
//   void place(group, i, bin, place)   told once for every item, by one lane; place -1 where bin is
//   kPlacesInBin                       places start at 0 in every bin, not where the bin starts
// All numbers are i32: there are fewer than 2^31 items.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "backend/cuda/launch.cuh"
#include "backend/cuda/reduce.cuh"
#include "core/math.h"

namespace switchyard::cuda {

struct StableCut {
  int num_items, num_bins;  // of a group
  int num_chunks, chunk_items;
  int bin_bits;  // bin + 1 needs no more
};

struct StablePlan {
  StableCut cut;
  int64_t num_groups;
  int warps;    // of a block
  int* before;  // (groups, bins, chunks): items of the bin in the chunk, then in those before
  int* total;   // (groups, bins)
};

// By sizes alone.
inline StableCut cut_items(int64_t num_groups, int64_t num_items, int64_t num_bins) {
  constexpr int64_t kMinItems = 256, kEnoughWarps = 1024;
  const int64_t most = std::max<int64_t>(1, kEnoughWarps / std::max<int64_t>(1, num_groups));
  const int64_t chunks = std::clamp<int64_t>(div_up(num_items, kMinItems), 1, most);
  return {static_cast<int>(num_items), static_cast<int>(num_bins), static_cast<int>(chunks),
          static_cast<int>(round_up(div_up(num_items, chunks), kWarpSize)),
          static_cast<int>(std::bit_width(static_cast<uint64_t>(num_bins)))};
}

// The lanes below this one.
__device__ __forceinline__ unsigned lanes_below() { return (1u << lane_of_thread()) - 1; }

// The lanes of which `value` is that of this lane, as far as `bits` bits tell.
__device__ __forceinline__ unsigned lanes_alike(unsigned value, int bits) {
  unsigned alike = kWholeWarp;
  for (int bit = 0; bit < bits; ++bit) {
    const unsigned set = __ballot_sync(kWholeWarp, static_cast<int>(value >> bit & 1));
    alike &= (value >> bit & 1) != 0 ? set : ~set;
  }
  return alike;
}

__device__ __forceinline__ int warp_inclusive_sum(int x) {
#pragma unroll
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const int below = __shfl_up_sync(kWholeWarp, x, distance);
    if (lane_of_thread() >= distance) x += below;
  }
  return x;
}

// Walks over the items of one chunk, 32 at a time: visit(i, bin, place) with place = counter[bin],
// which counts up. `counter` is the warp's own.
template <typename Items, typename Visit>
__device__ __forceinline__ void walk_chunk(int* counter, const Items& items, const StableCut& cut,
                                           int64_t group, int chunk, const Visit& visit) {
  const int begin = chunk * cut.chunk_items;
  const int end = min(cut.num_items, begin + cut.chunk_items);
  for (int first = begin; first < end; first += kWarpSize) {
    const int i = first + lane_of_thread();
    const int bin = i < end ? items.bin(group, i) : -1;
    const unsigned alike = lanes_alike(static_cast<unsigned>(bin + 1), cut.bin_bits);
    const int rank = __popc(alike & lanes_below());
    const int place = bin < 0 ? -1 : counter[bin] + rank;
    __syncwarp();  // all have read
    if (bin >= 0 && rank == 0) counter[bin] += __popc(alike);
    __syncwarp();
    if (i < end) visit(i, bin, place);
  }
}

// Step 1. One warp for each chunk, its counters in shared memory. Reads what items.bin does, writes
// bins * chunks i32.
template <typename Items>
__global__ void count_bins_kernel(Items items, StablePlan plan) {
  DYNAMIC_SHARED(shared);
  const StableCut& cut = plan.cut;
  const int64_t warp = int64_t{blockIdx.x} * plan.warps + warp_of_thread();
  if (warp >= plan.num_groups * cut.num_chunks) return;
  const int64_t group = warp / cut.num_chunks;
  const int chunk = static_cast<int>(warp % cut.num_chunks);
  int* counter = reinterpret_cast<int*>(shared) + warp_of_thread() * cut.num_bins;
  for (int bin = lane_of_thread(); bin < cut.num_bins; bin += kWarpSize) counter[bin] = 0;
  __syncwarp();
  walk_chunk(counter, items, cut, group, chunk, [](int, int, int) {});
  int* before = plan.before + group * cut.num_bins * cut.num_chunks;
  for (int bin = lane_of_thread(); bin < cut.num_bins; bin += kWarpSize)
    before[int64_t{bin} * cut.num_chunks + chunk] = counter[bin];
}

// Step 2. One warp for each bin. Reads and writes bins * chunks i32.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) sum_chunks_before_kernel(StablePlan plan) {
  const int64_t warp = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarpSize;
  const int chunks = plan.cut.num_chunks;
  if (warp >= plan.num_groups * plan.cut.num_bins) return;
  int* before = plan.before + warp * chunks;
  int total = 0;
  for (int first = 0; first < chunks; first += kWarpSize) {
    const int chunk = first + lane_of_thread();
    const int count = chunk < chunks ? before[chunk] : 0;
    const int sum = warp_inclusive_sum(count);
    if (chunk < chunks) before[chunk] = total + sum - count;
    total += __shfl_sync(kWholeWarp, sum, kWarpSize - 1);
  }
  if (lane_of_thread() == 0) plan.total[warp] = total;
}

// Step 3. One warp for each chunk; each adds up the starts of the bins for itself. Reads bins *
// chunks i32 and what items.bin does.
template <typename Items>
__global__ void place_items_kernel(Items items, StablePlan plan) {
  DYNAMIC_SHARED(shared);
  const StableCut& cut = plan.cut;
  const int64_t warp = int64_t{blockIdx.x} * plan.warps + warp_of_thread();
  if (warp >= plan.num_groups * cut.num_chunks) return;
  const int64_t group = warp / cut.num_chunks;
  const int chunk = static_cast<int>(warp % cut.num_chunks);
  int* counter = reinterpret_cast<int*>(shared) + warp_of_thread() * cut.num_bins;
  const int* total = plan.total + group * cut.num_bins;
  const int* before = plan.before + group * cut.num_bins * cut.num_chunks;
  int start = 0;
  for (int first = 0; first < cut.num_bins; first += kWarpSize) {
    const int bin = first + lane_of_thread();
    const int count = bin < cut.num_bins ? total[bin] : 0;
    const int sum = warp_inclusive_sum(count);
    if (bin < cut.num_bins) {
      const int start_of_bin = Items::kPlacesInBin ? 0 : start + sum - count;
      counter[bin] = start_of_bin + before[int64_t{bin} * cut.num_chunks + chunk];
      if constexpr (Items::kHasStarts)
        if (chunk == 0) items.start(group, bin, start_of_bin, total);
    }
    start += __shfl_sync(kWholeWarp, sum, kWarpSize - 1);
  }
  __syncwarp();
  walk_chunk(counter, items, cut, group, chunk,
             [&](int i, int bin, int place) { items.place(group, i, bin, place); });
}

// Bytes of scratch memory for place_stably.
inline int64_t stable_places_bytes(const StableCut& cut, int64_t num_groups) {
  return num_groups * cut.num_bins * (cut.num_chunks + int64_t{1}) *
         static_cast<int64_t>(sizeof(int));
}

// Tells `items` their places. Three launches, also for no items: then all bins are empty. Returns
// the totals of the bins, (groups, bins) in `scratch`.
template <typename Items>
const int* place_stably(cudaStream_t stream, const Items& items, const StableCut& cut,
                        int64_t num_groups, std::byte* scratch) {
  constexpr int kMaxWarps = 4, kThreads = 256;
  const int64_t warp_bytes = cut.num_bins * static_cast<int64_t>(sizeof(int));
  auto* before = reinterpret_cast<int*>(scratch);
  const StablePlan plan{cut, num_groups, warps_with_shared(warp_bytes, kMaxWarps), before,
                        before + num_groups * cut.num_bins * cut.num_chunks};
  const LaunchShape by_chunk{blocks_for(num_groups * cut.num_chunks, plan.warps),
                             static_cast<unsigned>(plan.warps * kWarpSize),
                             static_cast<size_t>(plan.warps * warp_bytes)};
  launch(stream, count_bins_kernel<Items>, by_chunk, items, plan);
  launch(stream, sum_chunks_before_kernel<kThreads>,
         {blocks_for(num_groups * cut.num_bins * kWarpSize, kThreads), kThreads}, plan);
  launch(stream, place_items_kernel<Items>, by_chunk, items, plan);
  return plan.total;
}

}  // namespace switchyard::cuda
