// What may change the router's choice or its input: forced balance, jitter, capacity, the bias; and
// the load.
#include <cmath>
#include <cstdint>
#include <limits>

#include "backend/cuda/chunk.cuh"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/stable_places.cuh"
#include "core/random.h"

namespace switchyard {
namespace {

using namespace cuda;

constexpr int kThreads = 256;      // of a block
constexpr int kKeepThreads = 512;  // of a block that looks after all candidates of an expert

// ---- Input and forced choices ----

// Neighbouring threads have neighbouring elements. Writes T A i32.
__global__ void __launch_bounds__(kThreads)
    balanced_choice_kernel(int32_t* __restrict__ expert, int64_t numel, int64_t first_choice,
                           int64_t num_experts) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < numel) expert[i] = static_cast<int32_t>((first_choice + i) % num_experts);
}

// The factors in f64, from the words of the CPU. Reads n Real, writes n.
template <int kWidth, typename Real>
__global__ void __launch_bounds__(kFlatThreads)
    jitter_kernel(Real* y, const Real* x, int64_t n, double eps, uint64_t key, uint64_t stream,
                  int64_t first) {
  for_each_chunk<kWidth>(n, [&](int64_t i, auto width) {
    constexpr int kCount = decltype(width)::value;
    auto chunk = load_chunk<kCount>(x + i);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const double u = random_uniform(key, static_cast<uint64_t>(first + i + j), stream);
      chunk.value[j] *= static_cast<Compute<Real>>(1 + eps * (2 * u - 1));
    }
    store_chunk(y + i, chunk);
  });
}

// ---- Capacity ----

// Equal probabilities are common, and their last bits depend on the shape of the matrix product:
// scores are compared on this grid, so that ties are ties on every layout.
__device__ __forceinline__ int64_t rounded(double score) {
  return std::isfinite(score) ? static_cast<int64_t>(std::nearbyint(score * 0x1.0p20)) : 0;
}

// The choices of a scope in the order of DropOrder::kPosition: those that have fewer than
// `capacity` of the same expert before them are kept.
struct ChoicesByPosition {
  static constexpr bool kHasStarts = false, kPlacesInBin = true;
  int32_t* kept;
  const int32_t* expert;
  int tokens, A;  // of a scope
  int64_t capacity;

  __device__ int64_t choice(int64_t scope, int i) const {
    return (scope * tokens + i % tokens) * A + i / tokens;
  }
  __device__ int bin(int64_t scope, int i) const { return expert[choice(scope, i)]; }
  __device__ void place(int64_t scope, int i, int bin, int place) const {
    kept[choice(scope, i)] = place < capacity ? bin : -1;
  }
};

// The choices of a scope grouped by expert, in the order of their tokens: candidates for its
// places.
template <typename Real>
struct ChoicesByExpert {
  static constexpr bool kHasStarts = false, kPlacesInBin = false;
  int64_t* candidate_score;  // (scopes, choices of a scope)
  int32_t* candidate;        // likewise: which choice of the scope it is
  const int32_t* expert;
  const Real* score;
  int64_t choices;  // of a scope

  __device__ int bin(int64_t scope, int i) const { return expert[scope * choices + i]; }
  __device__ void place(int64_t scope, int i, int, int place) const {
    candidate_score[scope * choices + place] =
        rounded(static_cast<double>(score[scope * choices + i]));
    candidate[scope * choices + place] = i;
  }
};

// How many of score[0, count) are at least `least`. The whole block calls.
__device__ __forceinline__ int count_at_least(const int64_t* __restrict__ score, int count,
                                              int64_t least) {
  int found = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kKeepThreads)
    found += score[i] >= least ? 1 : 0;
  return block_sum<kKeepThreads>(found);
}

// The largest number that at least `places` of score[0, count) reach; places < count. By halving:
// 21 rounds for probabilities.
__device__ __forceinline__ int64_t threshold(const int64_t* __restrict__ score, int count,
                                             int64_t places) {
  int64_t lowest = std::numeric_limits<int64_t>::max(), highest = -lowest;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kKeepThreads) {
    lowest = min(lowest, score[i]);
    highest = max(highest, score[i]);
  }
  int64_t low = -block_max<kKeepThreads>(-lowest), high = block_max<kKeepThreads>(highest);
  while (low < high) {
    const auto distance = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
    const int64_t middle = high - static_cast<int64_t>(distance / 2);  // above low
    if (count_at_least(score, count, middle) >= places)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

// How many of the block's threads before this one say yes, and how many do in all.
struct Votes {
  int before, all;
};
__device__ __forceinline__ Votes block_votes(bool yes) {
  SHARED_ARRAY(int, of_warp, kKeepThreads / kWarpSize);
  const unsigned votes = __ballot_sync(kWholeWarp, yes ? 1 : 0);
  if (lane_of_thread() == 0) of_warp[warp_of_thread()] = __popc(votes);
  __syncthreads();
  Votes result{__popc(votes & lanes_below()), 0};
  for (int warp = 0; warp < kKeepThreads / kWarpSize; ++warp) {
    if (warp < warp_of_thread()) result.before += of_warp[warp];
    result.all += of_warp[warp];
  }
  __syncthreads();  // of_warp is free for the next call
  return result;
}

struct Candidates {
  int32_t* kept;  // (scopes, choices)
  const int64_t* score;
  const int32_t* choice;
  const int32_t* total;  // (scopes, E): candidates of an expert
  int64_t choices;
  int E;
  int64_t capacity;
};

// DropOrder::kProbs. One block for each expert of each scope: of its candidates those above the
// threshold are kept, and of those at the threshold the first. Reads 21 times the candidates' i64
// (mostly from the cache) and their i32 once, writes as many i32.
__global__ void __launch_bounds__(kKeepThreads) keep_largest_kernel(Candidates p) {
  const int64_t scope = blockIdx.x / static_cast<unsigned>(p.E);
  const int e = static_cast<int>(blockIdx.x % static_cast<unsigned>(p.E));
  const int32_t* total = p.total + scope * p.E;
  int begin = 0;
  for (int i = static_cast<int>(threadIdx.x); i < e; i += kKeepThreads) begin += total[i];
  begin = block_sum<kKeepThreads>(begin);
  const int count = total[e];
  const int64_t* score = p.score + scope * p.choices + begin;
  const int32_t* choice = p.choice + scope * p.choices + begin;
  int32_t* kept = p.kept + scope * p.choices;

  int64_t least = std::numeric_limits<int64_t>::min(), ties = 0;
  if (count > p.capacity) {
    least = threshold(score, count, p.capacity);
    ties = p.capacity - count_at_least(score, count, least + 1);
  }
  for (int first = 0; first < count; first += kKeepThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    const bool is_tie = i < count && score[i] == least;
    const Votes votes = block_votes(is_tie);
    if (i < count) {
      const bool keep = is_tie ? votes.before < ties : score[i] > least;
      kept[choice[i]] = keep ? e : -1;
    }
    ties -= votes.all;
  }
}

// ---- Load and bias ----

// Integers of one block, added in any order, in shared memory. Reads n i32, writes bins for each
// block.
__global__ void __launch_bounds__(kThreads)
    count_experts_kernel(int* __restrict__ partial, const int32_t* __restrict__ kept, int64_t n,
                         int bins) {
  DYNAMIC_SHARED(shared);
  int* counts = reinterpret_cast<int*>(shared);
  for (int bin = static_cast<int>(threadIdx.x); bin < bins; bin += kThreads) counts[bin] = 0;
  __syncthreads();
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * kThreads)
    atomicAdd(&counts[kept[i] >= 0 ? kept[i] : bins - 1], 1);
  __syncthreads();
  for (int bin = static_cast<int>(threadIdx.x); bin < bins; bin += kThreads)
    partial[int64_t{blockIdx.x} * bins + bin] = counts[bin];
}

// count += the counts of all blocks. One warp for each bin. Reads bins i32 for each block.
__global__ void __launch_bounds__(kThreads)
    add_counts_kernel(double* count, const int* __restrict__ partial, int num_blocks, int bins) {
  const int64_t bin = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarpSize;
  if (bin >= bins) return;
  int64_t total = 0;
  for (int block = lane_of_thread(); block < num_blocks; block += kWarpSize)
    total += partial[int64_t{block} * bins + bin];
  total = warp_sum(total);
  if (lane_of_thread() == 0) count[bin] += static_cast<double>(total);
}

// One block. Compared as whole numbers: E * count against the sum, exact where a mean would be
// rounded. Reads 2 E f64, writes E.
__global__ void __launch_bounds__(kThreads)
    update_router_bias_kernel(double* __restrict__ bias, const double* __restrict__ count,
                              const double* __restrict__ scalars, double rate, int E) {
  if (scalars[static_cast<int>(StepScalar::kSkipStep)] != 0) return;
  double sum = 0;
  for (int e = static_cast<int>(threadIdx.x); e < E; e += kThreads) sum += count[e];
  sum = block_sum<kThreads>(sum);
  for (int e = static_cast<int>(threadIdx.x); e < E; e += kThreads) {
    const double missing = sum - static_cast<double>(E) * count[e];
    bias[e] += missing > 0 ? rate : missing < 0 ? -rate : 0;
  }
}

}  // namespace

void CudaOps::do_balanced_choice(Queue q, Tensor expert, int64_t first_token, int64_t num_experts) {
  launch(device_.stream(q), balanced_choice_kernel,
         {blocks_for(expert.numel(), kThreads), kThreads}, expert.data<int32_t>(), expert.numel(),
         first_token * expert.dim(1), num_experts);
}

void CudaOps::do_jitter(Queue q, Tensor y, Tensor x, double eps, uint64_t key, uint64_t stream,
                        int64_t first_row) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    with_width<Packet<Real>::kSize>(fits_packets(0, y.raw(), x.raw()), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      launch(device_.stream(q), jitter_kernel<kWidth, Real>, flat_shape(x.numel(), kWidth),
             y.data<Real>(), x.data<Real>(), x.numel(), eps, key, stream, first_row * x.dim(1));
    });
  });
}

void CudaOps::do_drop_tokens(Queue q, Tensor kept, Tensor expert, Tensor score, int64_t num_experts,
                             int64_t num_scopes, int64_t capacity, DropOrder order) {
  const cudaStream_t stream = device_.stream(q);
  const int64_t tokens = expert.dim(0) / num_scopes, A = expert.dim(1), choices = tokens * A;
  const StableCut cut = cut_items(num_scopes, choices, num_experts);
  const int64_t plan_bytes = stable_places_bytes(cut, num_scopes);
  if (order == DropOrder::kPosition) {
    place_stably(stream,
                 ChoicesByPosition{kept.data<int32_t>(), expert.data<int32_t>(),
                                   static_cast<int>(tokens), static_cast<int>(A), capacity},
                 cut, num_scopes, device_.scratch(q, plan_bytes));
    return;
  }
  with_accumulator(score.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t n = expert.numel();
    std::byte* scratch = device_.scratch(
        q, n * static_cast<int64_t>(sizeof(int64_t) + sizeof(int32_t)) + plan_bytes);
    auto* candidate_score = reinterpret_cast<int64_t*>(scratch);
    auto* candidate = reinterpret_cast<int32_t*>(candidate_score + n);
    const int* total =
        place_stably(stream,
                     ChoicesByExpert<Real>{candidate_score, candidate, expert.data<int32_t>(),
                                           score.data<Real>(), choices},
                     cut, num_scopes, reinterpret_cast<std::byte*>(candidate + n));
    launch(stream, keep_largest_kernel, {blocks_for(num_scopes * num_experts, 1), kKeepThreads},
           Candidates{kept.data<int32_t>(), candidate_score, candidate, total, choices,
                      static_cast<int>(num_experts), capacity});
  });
}

void CudaOps::do_expert_load(Queue q, Tensor count, Tensor kept) {
  constexpr int64_t kChoicesPerBlock = 4096;
  const int64_t n = kept.numel(), bins = count.numel();
  const unsigned blocks = striding_blocks(n, kChoicesPerBlock);
  const int64_t bytes = bins * static_cast<int64_t>(sizeof(int));
  int* partial = reinterpret_cast<int*>(device_.scratch(q, int64_t{blocks} * bytes));
  launch(device_.stream(q), count_experts_kernel, {blocks, kThreads, static_cast<size_t>(bytes)},
         partial, kept.data<int32_t>(), n, static_cast<int>(bins));
  launch(device_.stream(q), add_counts_kernel, {blocks_for(bins * kWarpSize, kThreads), kThreads},
         count.data<double>(), static_cast<const int*>(partial), static_cast<int>(blocks),
         static_cast<int>(bins));
}

void CudaOps::do_update_router_bias(Queue q, Tensor bias, Tensor count, Tensor scalars,
                                    double rate) {
  launch(device_.stream(q), update_router_bias_kernel, {1, kThreads}, bias.data<double>(),
         count.data<double>(), scalars.data<double>(), rate, static_cast<int>(bias.numel()));
}

}  // namespace switchyard
