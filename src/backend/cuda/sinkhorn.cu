// Sinkhorn: factors that even out what experts get, and the choice by them.
#include <cmath>
#include <limits>

#include "backend/cuda/choose.cuh"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/scope_sums.cuh"
#include "backend/cuda/storage.cuh"

namespace switchyard {
namespace {

using namespace cuda;

// Against division by zero, where a token or an expert gets nothing.
constexpr double kTiny = 1e-8;

constexpr int kMaxWarps = 8;  // of a block; each looks after one token
constexpr int kThreads = kMaxWarps * kWarpSize;

// One warp for each token, neighbouring lanes on neighbouring experts. Reads T E Real (twice, the
// second time from the cache), writes T E f64.
template <typename Real>
__global__ void __launch_bounds__(kThreads)
    sinkhorn_costs_kernel(double* __restrict__ cost, const Real* __restrict__ logits, int64_t T,
                          int E) {
  const int64_t t = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarpSize;
  if (t >= T) return;
  const Real* row = logits + t * E;
  Real largest = -std::numeric_limits<Real>::infinity();
  for (int e = lane_of_thread(); e < E; e += kWarpSize)
    largest = row[e] > largest ? row[e] : largest;
  largest = warp_max(largest);
#pragma unroll 1
  for (int e = lane_of_thread(); e < E; e += kWarpSize)
    cost[t * E + e] = std::exp(static_cast<double>(row[e] - largest));
}

// A row of the sums over tokens (scope_sums.cuh): the costs times the factor of the token.
struct ScaledCosts {
  static constexpr bool kCounts = false;
  const double *cost, *factor_of_expert;
  double n;
  int E;

  __device__ double factor(int64_t t, int64_t scope) const {
    double dot = 0;
    for (int e = lane_of_thread(); e < E; e += kWarpSize)
      dot += cost[t * E + e] * factor_of_expert[scope * E + e];
    return 1 / (n * (warp_sum(dot) + kTiny));
  }
  __device__ double value(int64_t t, int e) const { return cost[t * E + e]; }
};

// One thread for each factor. Reads and writes S E f64.
__global__ void __launch_bounds__(kThreads)
    sinkhorn_factors_kernel(double* __restrict__ factor, const double* __restrict__ sum,
                            int64_t numel, double E) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < numel) factor[i] = 1 / (E * (sum[i] + kTiny));
}

// One warp for each token, its keys in shared memory. Reads T E f64, writes T A i32.
__global__ void __launch_bounds__(kThreads)
    sinkhorn_choice_kernel(int32_t* __restrict__ expert, const double* __restrict__ factor,
                           const double* __restrict__ cost, ScopeRange scopes, int E, int A) {
  DYNAMIC_SHARED(shared);
  const int warp = warp_of_thread();
  const int64_t t = int64_t{blockIdx.x} * (blockDim.x / kWarpSize) + warp;
  if (t >= scopes.num_rows) return;
  uint64_t* key = reinterpret_cast<uint64_t*>(shared) + warp * E;
  const double* factor_of = factor + scopes.scope_of(t) * E;
  for (int e = lane_of_thread(); e < E; e += kWarpSize)
    key[e] = key_of(cost[t * E + e] * factor_of[e]);
  choose_largest(expert + t * A, key, E, A);
}

}  // namespace

void CudaOps::do_sinkhorn_costs(Queue q, Tensor cost, Tensor logits) {
  with_accumulator(logits.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = logits.dim(0);
    launch(device_.stream(q), sinkhorn_costs_kernel<Real>, {blocks_for(T, kMaxWarps), kThreads},
           cost.data<double>(), logits.data<Real>(), T, static_cast<int>(logits.dim(1)));
  });
}

void CudaOps::do_sinkhorn_sums(Queue q, Tensor sum, Tensor factor, Tensor cost, int64_t first_row,
                               int64_t rows_per_scope) {
  const int64_t S = sum.dim(0), E = sum.dim(1);
  const ScopePieces cut = cut_scopes({cost.dim(0), first_row, rows_per_scope}, S);
  const ScaledCosts row{cost.data<double>(), factor.data<double>(),
                        static_cast<double>(rows_per_scope), static_cast<int>(E)};
  std::byte* scratch = device_.scratch(q, scope_sums_bytes<ScaledCosts>(cut, S, E));
  add_up_scopes(device_.stream(q), sum.data<double>(), nullptr, row, cut, S, E, scratch);
}

void CudaOps::do_sinkhorn_factors(Queue q, Tensor factor, Tensor sum) {
  launch(device_.stream(q), sinkhorn_factors_kernel, {blocks_for(sum.numel(), kThreads), kThreads},
         factor.data<double>(), sum.data<double>(), sum.numel(), static_cast<double>(sum.dim(1)));
}

void CudaOps::do_sinkhorn_choice(Queue q, Tensor expert, Tensor factor, Tensor cost,
                                 int64_t first_row, int64_t rows_per_scope) {
  const int64_t T = cost.dim(0), E = cost.dim(1);
  const int64_t row_bytes = E * static_cast<int64_t>(sizeof(uint64_t));
  const int warps = warps_with_shared(row_bytes, kMaxWarps);
  launch(device_.stream(q), sinkhorn_choice_kernel,
         {blocks_for(T, warps), static_cast<unsigned>(warps * kWarpSize),
          static_cast<size_t>(warps * row_bytes)},
         expert.data<int32_t>(), factor.data<double>(), cost.data<double>(),
         ScopeRange{T, first_row, rows_per_scope}, static_cast<int>(E),
         static_cast<int>(expert.dim(1)));
}

}  // namespace switchyard
