// Sums over the rows of each scope (ops.h, router_statistics) in a fixed order: every block sums
// the rows of one piece of one scope, and a second kernel sums the pieces.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cuda/launch.cuh"
#include "backend/cuda/reduce.cuh"
#include "core/math.h"

namespace switchyard::cuda {

// Row t belongs to scope (first_row + t) / rows_per_scope.
struct ScopeRange {
  int64_t num_rows, first_row, rows_per_scope;

  __device__ int64_t scope_of(int64_t row) const { return (first_row + row) / rows_per_scope; }
};

// The rows that are here of a scope, cut into equal pieces: by sizes alone, so that the order of a
// sum is always the same.
struct ScopePieces {
  ScopeRange range;
  int num_pieces;  // of a scope
  int64_t rows_per_piece;
};

inline ScopePieces cut_scopes(const ScopeRange& range, int64_t num_scopes) {
  constexpr int64_t kMinRows = 64, kEnoughBlocks = 512;
  const int64_t rows = std::max<int64_t>(1, std::min(range.num_rows, range.rows_per_scope));
  const int64_t most = std::max<int64_t>(1, kEnoughBlocks / std::max<int64_t>(1, num_scopes));
  const int64_t pieces = std::min(most, div_up(rows, kMinRows));
  return {range, static_cast<int>(pieces), div_up(rows, pieces)};
}

// One block for each piece, its warps taking rows in turns; a lane adds every 32nd column to sums
// of its warp in shared memory. `Row` says what is summed:
//   double factor(row, scope)             the same in all lanes, which call it together
//   double value(row, e)                  partial[piece, e] = sum over rows of factor * value
//   void count(row, counts)               if kCounts: adds to integers counts[e], which follow the
//                                         sums in `partial`
// Reads what Row does, writes width f64 for each piece; width is E, or 2 E with counts.
template <typename Row>
__global__ void scope_sums_kernel(double* __restrict__ partial, Row row, ScopePieces cut, int E) {
  DYNAMIC_SHARED(shared);
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  const int warp = warp_of_thread();
  const int lane = lane_of_thread();
  auto* sums = reinterpret_cast<double*>(shared);
  auto* counts = reinterpret_cast<int*>(sums + warps * E);
  for (int i = static_cast<int>(threadIdx.x); i < warps * E; i += static_cast<int>(blockDim.x))
    sums[i] = 0;
  if constexpr (Row::kCounts)
    for (int i = static_cast<int>(threadIdx.x); i < E; i += static_cast<int>(blockDim.x))
      counts[i] = 0;
  __syncthreads();

  const int64_t scope = blockIdx.x / static_cast<unsigned>(cut.num_pieces);
  const int64_t piece = blockIdx.x % static_cast<unsigned>(cut.num_pieces);
  const ScopeRange& range = cut.range;
  const int64_t first = max(int64_t{0}, scope * range.rows_per_scope - range.first_row);
  const int64_t last = min(range.num_rows, (scope + 1) * range.rows_per_scope - range.first_row);
  const int64_t begin = first + piece * cut.rows_per_piece;
  const int64_t end = min(last, begin + cut.rows_per_piece);
  for (int64_t t = begin + warp; t < end; t += warps) {
    const double factor = row.factor(t, scope);
    for (int e = lane; e < E; e += kWarpSize) sums[warp * E + e] += factor * row.value(t, e);
    if constexpr (Row::kCounts) row.count(t, counts);
  }
  __syncthreads();

  double* target = partial + int64_t{blockIdx.x} * (Row::kCounts ? 2 * E : E);
  for (int e = static_cast<int>(threadIdx.x); e < E; e += static_cast<int>(blockDim.x)) {
    double total = 0;
    for (int w = 0; w < warps; ++w) total += sums[w * E + e];
    target[e] = total;
    if constexpr (Row::kCounts) target[E + e] = counts[e];
  }
}

// sum[scope, e] = sum over the pieces of partial[scope, piece, e], and count likewise, if it is not
// null. One warp for each column. Reads width * pieces f64 a scope, writes width.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    add_pieces_kernel(double* __restrict__ sum, double* __restrict__ count,
                      const double* __restrict__ partial, int64_t num_columns, int num_pieces,
                      int E) {
  const int64_t warp = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarpSize;
  const int lane = lane_of_thread();
  if (warp >= num_columns) return;
  const int width = count == nullptr ? E : 2 * E;
  const int64_t scope = warp / width, column = warp % width;
  double total = 0;
  for (int piece = lane; piece < num_pieces; piece += kWarpSize)
    total += partial[(scope * num_pieces + piece) * width + column];
  total = warp_sum(total);
  if (lane != 0) return;
  if (column < E)
    sum[scope * E + column] = total;
  else
    count[scope * E + column - E] = total;
}

// Bytes of scratch memory for add_up_scopes.
template <typename Row>
int64_t scope_sums_bytes(const ScopePieces& cut, int64_t S, int64_t E) {
  return S * cut.num_pieces * E * (Row::kCounts ? 2 : 1) * static_cast<int64_t>(sizeof(double));
}

// sum (S, E) and, if Row counts, count (S, E): see above. `scratch` is as scope_sums_bytes says.
template <typename Row>
void add_up_scopes(cudaStream_t stream, double* sum, double* count, const Row& row,
                   const ScopePieces& cut, int64_t S, int64_t E, std::byte* scratch) {
  constexpr int kThreads = 256;
  auto* partial = reinterpret_cast<double*>(scratch);
  const int64_t sums_bytes = E * static_cast<int64_t>(sizeof(double));
  const int64_t counts_bytes = Row::kCounts ? E * static_cast<int64_t>(sizeof(int)) : 0;
  const int warps = warps_with_shared(sums_bytes, kThreads / kWarpSize);
  launch(stream, scope_sums_kernel<Row>,
         {blocks_for(S * cut.num_pieces, 1), static_cast<unsigned>(warps * kWarpSize),
          static_cast<size_t>(warps * sums_bytes + counts_bytes)},
         partial, row, cut, static_cast<int>(E));
  const int64_t columns = S * E * (Row::kCounts ? 2 : 1);
  launch(stream, add_pieces_kernel<kThreads>, {blocks_for(columns * kWarpSize, kThreads), kThreads},
         sum, count, static_cast<const double*>(partial), columns, cut.num_pieces,
         static_cast<int>(E));
}

}  // namespace switchyard::cuda
