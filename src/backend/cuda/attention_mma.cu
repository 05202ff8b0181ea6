// Attention in bf16 on tensor cores (attention.cuh). A warp owns 16 rows of its block's tile: of
// queries, or, in the kernel of keys, of keys, where it computes the transposed scores. Scores stay
// in registers, where the accumulators of one product are, rounded to bf16, operand a of the next.
// Sums, softmax and statistics are f32; gradients and outputs are rounded once. Heads are padded
// with zeros in shared memory to the kC columns of the kernel.
#include "backend/cuda/attention.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/mma_tile.cuh"

namespace switchyard::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTileRows = kThreads / kWarpSize * 16;  // of what a block owns
constexpr float kLog2E = 1.4426950408889634F, kLn2 = 0.6931471805599453F;

__device__ __forceinline__ int warp_row() { return static_cast<int>(threadIdx.x) / kWarpSize * 16; }
// Of accumulators [n][e], a lane holds row lane_row(e) of 16 and column 8 n + lane_column(e).
__device__ __forceinline__ int lane_row(int e) {
  return static_cast<int>(threadIdx.x) % kWarpSize / 4 + e / 2 * 8;
}
__device__ __forceinline__ int lane_column(int e) {
  return static_cast<int>(threadIdx.x) % 4 * 2 + e % 2;
}

// Starts copying a tile of one head, from row `begin` of its sequence on.
template <typename TileType>
__device__ __forceinline__ void copy_rows(const TileType& tile, const BFloat16* tensor, int heads,
                                          const AttentionShape& shape, int64_t first_row, int head,
                                          int begin) {
  const int64_t stride = static_cast<int64_t>(heads) * shape.C;
  copy_tile<kThreads>(tile, tensor + (first_row + begin) * stride + head * shape.C, stride,
                      shape.S - begin, shape.C);
}

// scores (16, kOthers) = rows [row, row + 16) of `own` times all rows of `other`, transposed.
template <int kOthers, typename OwnTile, typename OtherTile>
__device__ __forceinline__ void multiply_rows(float (&scores)[kOthers / 8][4], const OwnTile& own,
                                              int row, const OtherTile& other) {
#pragma unroll
  for (int n = 0; n < kOthers / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) scores[n][e] = 0;
#pragma unroll
  for (int term = 0; term < OwnTile::kColumns; term += 16) {
    uint32_t a[4];
    load_a<Terms::kInRow>(a, own, row, term);
#pragma unroll
    for (int n = 0; n < kOthers; n += 16) {
      uint32_t b[2][2];
      load_b<Terms::kInRow>(b, other, term, n);
      mma_m16n8k16(scores[n / 8], a, b[0]);
      mma_m16n8k16(scores[n / 8 + 1], a, b[1]);
    }
  }
}

// sum (16, kColumns) += weights (16, kOthers), rounded to bf16, times columns [first_column,
// first_column + kColumns) of `other`.
template <int kOthers, int kColumns, typename OtherTile>
__device__ __forceinline__ void add_weighted_rows(float (&sum)[kColumns / 8][4],
                                                  const float (&weights)[kOthers / 8][4],
                                                  const OtherTile& other, int first_column) {
#pragma unroll
  for (int term = 0; term < kOthers; term += 16) {
    const auto &left = weights[term / 8], &right = weights[term / 8 + 1];
    const uint32_t a[4] = {two_bf16(left[0], left[1]), two_bf16(left[2], left[3]),
                           two_bf16(right[0], right[1]), two_bf16(right[2], right[3])};
#pragma unroll
    for (int column = 0; column < kColumns; column += 16) {
      uint32_t b[2][2];
      load_b<Terms::kInColumn>(b, other, term, first_column + column);
      mma_m16n8k16(sum[column / 8], a, b[0]);
      mma_m16n8k16(sum[column / 8 + 1], a, b[1]);
    }
  }
}

// Rows of a warp's accumulators, times a factor per row, to those of one head.
template <int kColumns>
__device__ __forceinline__ void write_rows(BFloat16* tensor, int heads, const AttentionShape& shape,
                                           const AttentionTile& tile, int first_column,
                                           const float (&sum)[kColumns / 8][4],
                                           const float (&factor)[2]) {
  const int64_t stride = static_cast<int64_t>(heads) * shape.C;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = tile.begin + warp_row() + lane_row(2 * half);
    if (row >= shape.S) continue;
    BFloat16* target = tensor + (tile.first_row + row) * stride + tile.head * shape.C;
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      const int column = first_column + n * 8 + lane_column(0);
      if (column < shape.C)
        *reinterpret_cast<uint32_t*>(target + column) =
            two_bf16(sum[n][2 * half] * factor[half], sum[n][2 * half + 1] * factor[half]);
    }
  }
}

// Minus infinity for keys that a query does not see. `query` and `first`: of a lane's two rows.
template <int kKeys>
__device__ __forceinline__ void hide_keys(float (&scores)[kKeys / 8][4], int first_key_of_tile,
                                          const int (&query)[2], const int (&first)[2]) {
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = first_key_of_tile + n * 8 + lane_column(e);
      if (key > query[e / 2] || key < first[e / 2]) scores[n][e] = -INFINITY;
    }
}

// ---- Forward ----

// The running softmax of a lane's two rows, shared by the four lanes that hold them: with exponents
// of 2, to which scores are scaled.
struct RunningSoftmax {
  float maximum[2] = {-INFINITY, -INFINITY};
  float total[2] = {0, 0};  // of this lane's columns

  // scores -> exp(scores - maximum). correction: what earlier sums are multiplied with.
  template <int kKeys>
  __device__ __forceinline__ void add(float (&scores)[kKeys / 8][4], float scale,
                                      float (&correction)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -INFINITY;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
        largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));
      largest = fmaxf(maximum[half], largest * scale);
      // A query that sees nothing so far has no maximum; its weights become exp2(-infinity) = 0.
      const float subtracted = largest == -INFINITY ? 0 : largest;
      correction[half] = exp2f(maximum[half] - subtracted);
      maximum[half] = largest;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          scores[n][e] = exp2f(scores[n][e] * scale - subtracted);
          sum += scores[n][e];
        }
      total[half] = total[half] * correction[half] + sum;
    }
  }

  __device__ __forceinline__ float whole_total(int half) const {
    const float pair = total[half] + __shfl_xor_sync(kWholeWarp, total[half], 1);
    return pair + __shfl_xor_sync(kWholeWarp, pair, 2);
  }
};

template <int kC>
struct ForwardTiles {
  static constexpr int kKeys = kC <= 128 ? 64 : 32;
  static constexpr int kBlocks = kC <= 64 ? 4 : kC <= 128 ? 3 : 2;  // per multiprocessor
  using Query = Tile<kTileRows, kC>;
  using Key = Tile<kKeys, kC>;
  static constexpr size_t kBytes = Query::kBytes + 2 * Key::kBytes;
};

// A block computes 64 queries of one head. While it multiplies with a tile of keys, that of values
// arrives, and the other way round.
template <int kC>
__global__ void __launch_bounds__(kThreads, ForwardTiles<kC>::kBlocks)
    attention_forward_mma_kernel(AttentionForward<BFloat16> p) {
  using Tiles = ForwardTiles<kC>;
  constexpr int kKeys = Tiles::kKeys;
  DYNAMIC_SHARED(shared);
  const typename Tiles::Query query(shared);
  const typename Tiles::Key key(shared + Tiles::Query::kBytes);
  const typename Tiles::Key value(shared + Tiles::Query::kBytes + Tiles::Key::kBytes);
  const AttentionTile tile = attention_tile(p.shape, p.shape.H, kTileRows, true);
  const int kv_head = tile.head / (p.shape.H / p.shape.K);
  const VisibleKeys visible = visible_keys<kTileRows>(p.shape, tile.first_row, tile.begin);
  const int begin = visible.first / kKeys * kKeys;
  const int end = min(tile.begin + kTileRows, p.shape.S);
  const int my_query[2] = {tile.begin + warp_row() + lane_row(0),
                           tile.begin + warp_row() + lane_row(2)};
  const int my_first[2] = {first_key(p.shape, tile.first_row, my_query[0]),
                           first_key(p.shape, tile.first_row, my_query[1])};
  const float scale = static_cast<float>(p.shape.scale) * kLog2E;
  RunningSoftmax softmax;
  float sum[kC / 8][4] = {};
  copy_rows(query, p.query, p.shape.H, p.shape, tile.first_row, tile.head, tile.begin);
  copy_rows(key, p.key, p.shape.K, p.shape, tile.first_row, kv_head, begin);
  cp_async_commit();
  for (int first = begin; first < end; first += kKeys) {
    cp_async_wait<0>();
    __syncthreads();  // the keys are there, and nobody needs the last values any more
    copy_rows(value, p.value, p.shape.K, p.shape, tile.first_row, kv_head, first);
    cp_async_commit();
    float scores[kKeys / 8][4];
    multiply_rows<kKeys>(scores, query, warp_row(), key);
    if (first + kKeys > tile.begin + warp_row() + 1 || first < visible.all_from)
      hide_keys<kKeys>(scores, first, my_query, my_first);
    float correction[2];
    softmax.add<kKeys>(scores, scale, correction);
#pragma unroll
    for (int n = 0; n < kC / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[n][e] *= correction[e / 2];
    cp_async_wait<0>();
    __syncthreads();  // the values are there, and nobody needs these keys any more
    if (first + kKeys < end) {
      copy_rows(key, p.key, p.shape.K, p.shape, tile.first_row, kv_head, first + kKeys);
      cp_async_commit();
    }
    add_weighted_rows<kKeys, kC>(sum, scores, value, 0);
  }
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = softmax.whole_total(half);
    inverse[half] = 1 / total;
    if (threadIdx.x % 4 == 0 && my_query[half] < p.shape.S)
      p.log_sum_exp[(tile.first_row + my_query[half]) * p.shape.H + tile.head] =
          (softmax.maximum[half] + log2f(total)) * kLn2;
  }
  write_rows<kC>(p.out, p.shape.H, p.shape, tile, 0, sum, inverse);
}

// ---- Backward: queries ----

// delta of the block's queries: to shared memory, and to p.delta for the kernel of keys. Two
// threads sum a row.
__device__ __forceinline__ void sum_delta(float* delta, const AttentionBackward<BFloat16>& p,
                                          const AttentionTile& tile) {
  const int row = static_cast<int>(threadIdx.x) / 2, query = tile.begin + row;
  const int64_t index = (tile.first_row + query) * p.shape.H + tile.head;
  float sum = 0;
  if (query < p.shape.S)
    for (int c = static_cast<int>(threadIdx.x) % 2 * 8; c < p.shape.C; c += 16) {
      const auto dout = load_packet(p.dout + index * p.shape.C + c);
      const auto out = load_packet(p.out + index * p.shape.C + c);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += dout.value[i] * out.value[i];
    }
  sum += __shfl_xor_sync(kWholeWarp, sum, 1);
  if (threadIdx.x % 2 != 0) return;
  delta[row] = sum;
  if (query < p.shape.S) p.delta[index] = sum;
}

template <int kC>
struct QueryBackwardTiles {
  static constexpr int kKeys = 32;
  using Query = Tile<kTileRows, kC>;
  using Key = Tile<kKeys, kC>;
  static constexpr int kStage = 2 * Key::kBytes;
  static constexpr size_t kBytes = 2 * Query::kBytes + 2 * kStage;
};

// A block owns 64 queries of one head: dQ = scale * sum over keys of dS K, where
// dS = P (dout V^T - delta) and P = exp(scores - log_sum_exp). The next tile of keys and values
// arrives while it multiplies with this one.
template <int kC>
__global__ void __launch_bounds__(kThreads)
    attention_backward_queries_mma_kernel(AttentionBackward<BFloat16> p) {
  using Tiles = QueryBackwardTiles<kC>;
  constexpr int kKeys = Tiles::kKeys;
  DYNAMIC_SHARED(shared);
  SHARED_ARRAY(float, delta, kTileRows);
  const typename Tiles::Query query(shared), dout(shared + Tiles::Query::kBytes);
  unsigned char* const stages = shared + 2 * Tiles::Query::kBytes;
  const AttentionTile tile = attention_tile(p.shape, p.shape.H, kTileRows, true);
  const int kv_head = tile.head / (p.shape.H / p.shape.K);
  const VisibleKeys visible = visible_keys<kTileRows>(p.shape, tile.first_row, tile.begin);
  const int begin = visible.first / kKeys * kKeys;
  const int end = min(tile.begin + kTileRows, p.shape.S);
  const auto start = [&](int first) {
    unsigned char* const stage = stages + (first / kKeys) % 2 * Tiles::kStage;
    copy_rows(typename Tiles::Key(stage), p.key, p.shape.K, p.shape, tile.first_row, kv_head,
              first);
    copy_rows(typename Tiles::Key(stage + Tiles::Key::kBytes), p.value, p.shape.K, p.shape,
              tile.first_row, kv_head, first);
    cp_async_commit();
  };
  copy_rows(query, p.query, p.shape.H, p.shape, tile.first_row, tile.head, tile.begin);
  copy_rows(dout, p.dout, p.shape.H, p.shape, tile.first_row, tile.head, tile.begin);
  start(begin);
  sum_delta(delta, p, tile);
  const float scale = static_cast<float>(p.shape.scale);
  int my_query[2], my_first[2];
  float exponent[2];  // log-sum-exp, for exponents of 2
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    my_query[half] = tile.begin + warp_row() + lane_row(2 * half);
    my_first[half] = first_key(p.shape, tile.first_row, my_query[half]);
    const int64_t index = (tile.first_row + my_query[half]) * p.shape.H + tile.head;
    exponent[half] = my_query[half] < p.shape.S ? p.log_sum_exp[index] * kLog2E : 0;
  }
  float sum[kC / 8][4] = {};
  for (int first = begin; first < end; first += kKeys) {
    cp_async_wait<0>();
    __syncthreads();  // this stage is there, and nobody needs the other any more
    if (first + kKeys < end) start(first + kKeys);
    unsigned char* const stage = stages + (first / kKeys) % 2 * Tiles::kStage;
    const typename Tiles::Key key(stage), value(stage + Tiles::Key::kBytes);
    float weights[kKeys / 8][4], dweights[kKeys / 8][4];
    multiply_rows<kKeys>(weights, query, warp_row(), key);
    if (first + kKeys > tile.begin + warp_row() + 1 || first < visible.all_from)
      hide_keys<kKeys>(weights, first, my_query, my_first);
    multiply_rows<kKeys>(dweights, dout, warp_row(), value);
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        dweights[n][e] = exp2f(weights[n][e] * (scale * kLog2E) - exponent[e / 2]) *
                         (dweights[n][e] - delta[warp_row() + lane_row(e)]);
    add_weighted_rows<kKeys, kC>(sum, dweights, key, 0);
  }
  const float factor[2] = {scale, scale};
  write_rows<kC>(p.dquery, p.shape.H, p.shape, tile, 0, sum, factor);
}

// ---- Backward: keys ----

template <int kC>
struct KeyBackwardTiles {
  static constexpr int kQueries = 32;
  static constexpr int kColumns = kC <= 128 ? kC : 128;  // of the gradients that a block owns
  using Key = Tile<kTileRows, kC>;
  using Query = Tile<kQueries, kC>;
  static constexpr int kStage = 2 * Query::kBytes;
  static constexpr size_t kBytes = 2 * Key::kBytes + 2 * kStage;
};

struct QueryStatistics {
  float exponent, delta;  // log-sum-exp, for exponents of 2
  int query, first;       // first visible key
};

// A block owns 64 keys of one key/value head: dV = sum of P^T dout, dK = scale * sum of dS^T Q,
// over query heads, ascending, and queries, ascending. For wide heads it owns 128 of the columns
// (blockIdx.y says which), and all blocks compute the scores. The next tile of queries arrives
// while it multiplies with this one.
template <int kC>
__global__ void __launch_bounds__(kThreads)
    attention_backward_keys_mma_kernel(AttentionBackward<BFloat16> p) {
  using Tiles = KeyBackwardTiles<kC>;
  constexpr int kQueries = Tiles::kQueries, kColumns = Tiles::kColumns;
  DYNAMIC_SHARED(shared);
  SHARED_ARRAY(QueryStatistics, statistics, 2 * kQueries);
  const typename Tiles::Key key(shared), value(shared + Tiles::Key::kBytes);
  unsigned char* const stages = shared + 2 * Tiles::Key::kBytes;
  const AttentionTile tile = attention_tile(p.shape, p.shape.K, kTileRows, false);
  const int first_column = static_cast<int>(blockIdx.y) * kColumns;
  const float scale = static_cast<float>(p.shape.scale);
  QueryTiles<kQueries> next(p.shape, tile, kTileRows);
  // The tile of queries that comes next, into a stage; then the one after it comes next.
  const auto start = [&](int number) {
    unsigned char* const stage = stages + number * Tiles::kStage;
    copy_rows(typename Tiles::Query(stage), p.query, p.shape.H, p.shape, tile.first_row, next.head,
              next.begin);
    copy_rows(typename Tiles::Query(stage + Tiles::Query::kBytes), p.dout, p.shape.H, p.shape,
              tile.first_row, next.head, next.begin);
    cp_async_commit();
    if (threadIdx.x < kQueries) {
      const int q = next.begin + static_cast<int>(threadIdx.x);
      const int64_t index = (tile.first_row + q) * p.shape.H + next.head;
      const bool is_real = q < p.shape.S;
      statistics[number * kQueries + threadIdx.x] = {is_real ? p.log_sum_exp[index] * kLog2E : 0,
                                                     is_real ? p.delta[index] : 0, q,
                                                     first_key(p.shape, tile.first_row, q)};
    }
    next.advance();
  };
  copy_rows(key, p.key, p.shape.K, p.shape, tile.first_row, tile.head, tile.begin);
  copy_rows(value, p.value, p.shape.K, p.shape, tile.first_row, tile.head, tile.begin);
  float dkey[kColumns / 8][4] = {}, dvalue[kColumns / 8][4] = {};
  bool is_last = next.done();
  if (!is_last) start(0);
  for (int number = 0; !is_last; number = 1 - number) {
    cp_async_wait<0>();
    __syncthreads();  // this stage is there, and nobody needs the other any more
    is_last = next.done();
    if (!is_last) start(1 - number);
    unsigned char* const stage = stages + number * Tiles::kStage;
    const typename Tiles::Query query(stage), dout(stage + Tiles::Query::kBytes);
    float weights[kQueries / 8][4], dweights[kQueries / 8][4];
    multiply_rows<kQueries>(weights, key, warp_row(), query);
    multiply_rows<kQueries>(dweights, value, warp_row(), dout);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const QueryStatistics& of = statistics[number * kQueries + n * 8 + lane_column(e)];
        const int my_key = tile.begin + warp_row() + lane_row(e);
        const bool sees = my_key <= of.query && my_key >= of.first;
        const float weight = sees ? exp2f(weights[n][e] * (scale * kLog2E) - of.exponent) : 0;
        weights[n][e] = weight;
        dweights[n][e] = weight * (dweights[n][e] - of.delta);
      }
    add_weighted_rows<kQueries, kColumns>(dvalue, weights, dout, first_column);
    add_weighted_rows<kQueries, kColumns>(dkey, dweights, query, first_column);
  }
  const float one[2] = {1, 1}, factor[2] = {scale, scale};
  write_rows<kColumns>(p.dvalue, p.shape.K, p.shape, tile, first_column, dvalue, one);
  write_rows<kColumns>(p.dkey, p.shape.K, p.shape, tile, first_column, dkey, factor);
}

// ---- Launches ----

bool fits_rows(const AttentionShape& shape) { return shape.C % 8 == 0 && shape.C <= 256; }

// function(the columns that a head of C channels is padded to, as a constant).
template <typename Function>
void with_padded_head(int C, const Function& function) {
  if (C <= 32) return function(std::integral_constant<int, 32>());
  if (C <= 64) return function(std::integral_constant<int, 64>());
  if (C <= 128) return function(std::integral_constant<int, 128>());
  function(std::integral_constant<int, 256>());
}

unsigned blocks(const AttentionShape& shape, int heads) {
  return static_cast<unsigned>(attention_blocks(shape, heads, kTileRows));
}

}  // namespace

bool fits_mma(const AttentionForward<BFloat16>& p) {
  return fits_rows(p.shape) && fits_packets(0, p.out, p.query, p.key, p.value);
}

bool fits_mma(const AttentionBackward<BFloat16>& p) {
  return fits_rows(p.shape) &&
         fits_packets(0, p.dquery, p.dkey, p.dvalue, p.dout, p.out, p.query, p.key, p.value);
}

void launch_mma(cudaStream_t stream, const AttentionForward<BFloat16>& p) {
  with_padded_head(p.shape.C, [&](auto padded) {
    constexpr int kC = decltype(padded)::value;
    launch(stream, attention_forward_mma_kernel<kC>,
           {blocks(p.shape, p.shape.H), kThreads, ForwardTiles<kC>::kBytes}, p);
  });
}

void launch_mma(cudaStream_t stream, const AttentionBackward<BFloat16>& p) {
  with_padded_head(p.shape.C, [&](auto padded) {
    constexpr int kC = decltype(padded)::value;
    launch(stream, attention_backward_queries_mma_kernel<kC>,
           {blocks(p.shape, p.shape.H), kThreads, QueryBackwardTiles<kC>::kBytes}, p);
    const dim3 grid(blocks(p.shape, p.shape.K), kC / KeyBackwardTiles<kC>::kColumns);
    launch(stream, attention_backward_keys_mma_kernel<kC>,
           {grid, kThreads, KeyBackwardTiles<kC>::kBytes}, p);
  });
}

}  // namespace switchyard::cuda
