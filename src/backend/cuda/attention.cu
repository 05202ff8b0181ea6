// Attention in plain arithmetic, for f32, f64 and rows of bf16 that are no whole packets; and the
// choice between it and tensor cores (attention.cuh).
//
// A block of 16x16 threads owns a tile of kTile rows of one head. Thread (i, j) computes the scores
// of rows i, i + 16 .. and columns j, j + 16 .. of the tile, and the same rows and channels
// j, j + 16 .. of what is summed. All arithmetic is in Compute<Real>, sums in a fixed order.
#include <cmath>
#include <limits>

#include "backend/cuda/attention.cuh"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"

namespace switchyard {
namespace {

using namespace cuda;

constexpr int kSide = 16;
constexpr int kThreads = kSide * kSide;
constexpr int kMaxHeadDim = 256;
constexpr int kChannels = kMaxHeadDim / kSide;  // of a thread

// f32: 2x2 scores per thread. f64 takes twice the memory, so its tiles have half the rows.
template <typename T>
inline constexpr int kRows = sizeof(T) == 4 ? 2 : 1;
template <typename T>
inline constexpr int kTile = kRows<T>* kSide;

template <typename T>
using Scores = T[kRows<T>][kRows<T>];
template <typename T>
using Sums = T[kRows<T>][kChannels];

__device__ __forceinline__ int thread_row() { return static_cast<int>(threadIdx.x) / kSide; }
__device__ __forceinline__ int thread_column() { return static_cast<int>(threadIdx.x) % kSide; }

// Rows in shared memory, `stride` elements apart: an odd number, against bank conflicts.
template <typename T>
struct SharedRows {
  T* data;
  int stride;

  __device__ __forceinline__ T* at(int row) const { return data + row * stride; }
};

// Hands out the dynamic shared memory.
template <typename T>
struct SharedMemory {
  T* next;

  __device__ __forceinline__ explicit SharedMemory(unsigned char* memory)
      : next(reinterpret_cast<T*>(memory)) {}
  // A tile of rows of `columns` elements.
  __device__ __forceinline__ SharedRows<T> take(int columns) {
    const SharedRows<T> rows{next, columns | 1};
    next += kTile<T> * rows.stride;
    return rows;
  }
};

template <typename T>
size_t shared_bytes(int C, int tiles_of_channels, int tiles_of_scores) {
  const auto row =
      static_cast<size_t>(tiles_of_channels * (C | 1) + tiles_of_scores * (kTile<T> | 1));
  return row * kTile<T> * sizeof(T);
}

// Element `channel` of row `row` of a sequence, of one head.
__device__ __forceinline__ int64_t row_index(const AttentionShape& shape, int heads,
                                             int64_t first_row, int head, int row) {
  return ((first_row + row) * heads + head) * shape.C;
}

// Brings a tile of one head into shared memory, with zeros beyond the end of the sequence.
template <typename Real>
__device__ __forceinline__ void load_rows(SharedRows<Compute<Real>> rows, const Real* tensor,
                                          int heads, const AttentionShape& shape, int64_t first_row,
                                          int head, int begin) {
  using T = Compute<Real>;
  for (int i = static_cast<int>(threadIdx.x); i < kTile<T> * shape.C; i += kThreads) {
    const int row = i / shape.C, channel = i % shape.C;
    rows.at(row)[channel] =
        begin + row < shape.S
            ? load(tensor[row_index(shape, heads, first_row, head, begin + row) + channel])
            : T{0};
  }
}

// Products of the thread's rows of a and its rows of b.
template <typename T>
__device__ __forceinline__ void multiply_rows(Scores<T>& scores, SharedRows<T> a, SharedRows<T> b,
                                              int C) {
#pragma unroll
  for (int i = 0; i < kRows<T>; ++i)
#pragma unroll
    for (int j = 0; j < kRows<T>; ++j) scores[i][j] = 0;
  for (int c = 0; c < C; ++c)
#pragma unroll
    for (int i = 0; i < kRows<T>; ++i)
#pragma unroll
      for (int j = 0; j < kRows<T>; ++j)
        scores[i][j] += a.at(thread_row() + kSide * i)[c] * b.at(thread_column() + kSide * j)[c];
}

// sums += weights (tile, tile) times the rows of b.
template <typename T>
__device__ __forceinline__ void add_weighted_rows(Sums<T>& sums, SharedRows<T> weights,
                                                  SharedRows<T> b, int C) {
  for (int j = 0; j < kTile<T>; ++j)
#pragma unroll
    for (int i = 0; i < kRows<T>; ++i) {
      const T weight = weights.at(thread_row() + kSide * i)[j];
#pragma unroll
      for (int k = 0; k < kChannels; ++k)
        if (thread_column() + kSide * k < C)
          sums[i][k] += weight * b.at(j)[thread_column() + kSide * k];
    }
}

template <typename Real, typename T>
__device__ __forceinline__ void write_rows(Real* tensor, int heads, const AttentionShape& shape,
                                           const AttentionTile& tile, const Sums<T>& sums,
                                           const T (&factor)[kRows<T>]) {
#pragma unroll
  for (int i = 0; i < kRows<T>; ++i) {
    const int row = tile.begin + thread_row() + kSide * i;
    if (row >= shape.S) continue;
    Real* target = tensor + row_index(shape, heads, tile.first_row, tile.head, row);
#pragma unroll
    for (int k = 0; k < kChannels; ++k)
      if (thread_column() + kSide * k < shape.C)
        store(target[thread_column() + kSide * k], sums[i][k] * factor[i]);
  }
}

// ---- Forward ----

// A block owns a tile of queries. The softmax runs: earlier sums shrink when the maximum grows.
template <typename Real>
__global__ void __launch_bounds__(kThreads) attention_forward_kernel(AttentionForward<Real> p) {
  using T = Compute<Real>;
  constexpr T kHidden = -std::numeric_limits<T>::infinity();
  DYNAMIC_SHARED(shared);
  SharedMemory<T> memory(shared);
  const int C = p.shape.C;
  const SharedRows<T> query = memory.take(C), key = memory.take(C), value = memory.take(C);
  const SharedRows<T> probs = memory.take(kTile<T>);
  const AttentionTile tile = attention_tile(p.shape, p.shape.H, kTile<T>, true);
  const int kv_head = tile.head / (p.shape.H / p.shape.K);
  const VisibleKeys visible = visible_keys<kTile<T>>(p.shape, tile.first_row, tile.begin);
  const T scale = static_cast<T>(p.shape.scale);
  Sums<T> sums = {};
  T maximum[kRows<T>], total[kRows<T>];
#pragma unroll
  for (int i = 0; i < kRows<T>; ++i) {
    maximum[i] = kHidden;
    total[i] = 0;
  }
  load_rows(query, p.query, p.shape.H, p.shape, tile.first_row, tile.head, tile.begin);
  const int end = min(tile.begin + kTile<T>, p.shape.S);
  for (int first = visible.first / kTile<T> * kTile<T>; first < end; first += kTile<T>) {
    __syncthreads();  // nobody needs the last tile of keys any more
    load_rows(key, p.key, p.shape.K, p.shape, tile.first_row, kv_head, first);
    load_rows(value, p.value, p.shape.K, p.shape, tile.first_row, kv_head, first);
    __syncthreads();
    Scores<T> scores;
    multiply_rows(scores, query, key, C);
#pragma unroll
    for (int i = 0; i < kRows<T>; ++i) {
      const int q = tile.begin + thread_row() + kSide * i;
      const int my_first = first_key(p.shape, tile.first_row, q);
      T largest = maximum[i];
#pragma unroll
      for (int j = 0; j < kRows<T>; ++j) {
        const int k = first + thread_column() + kSide * j;
        scores[i][j] = k > q || k < my_first ? kHidden : scores[i][j] * scale;
        largest = scores[i][j] > largest ? scores[i][j] : largest;
      }
      largest = warp_max<kSide>(largest);
      const T subtracted = largest == kHidden ? T{0} : largest;  // the query sees nothing so far
      const T correction = exp(maximum[i] - subtracted);
      T sum = 0;
#pragma unroll
      for (int j = 0; j < kRows<T>; ++j) {
        const T prob = exp(scores[i][j] - subtracted);
        probs.at(thread_row() + kSide * i)[thread_column() + kSide * j] = prob;
        sum += prob;
      }
      total[i] = total[i] * correction + warp_sum<kSide>(sum);
      maximum[i] = largest;
#pragma unroll
      for (int k = 0; k < kChannels; ++k) sums[i][k] *= correction;
    }
    __syncthreads();
    add_weighted_rows(sums, probs, value, C);
  }
  T inverse[kRows<T>];
#pragma unroll
  for (int i = 0; i < kRows<T>; ++i) {
    inverse[i] = T{1} / total[i];
    const int q = tile.begin + thread_row() + kSide * i;
    if (thread_column() == 0 && q < p.shape.S)
      p.log_sum_exp[(tile.first_row + q) * p.shape.H + tile.head] = maximum[i] + log(total[i]);
  }
  write_rows(p.out, p.shape.H, p.shape, tile, sums, inverse);
}

// ---- Backward ----

// What the gradient of the scores of one query needs; all zero beyond the end of the sequence.
template <typename T>
struct QueryStatistics {
  T log_sum_exp, delta;
  int query, first;  // first visible key
};

template <typename T>
__device__ __forceinline__ T visible_prob(T score, T scale, const QueryStatistics<T>& of, int key) {
  const bool sees = key <= of.query && key >= of.first;
  return sees ? exp(score * scale - of.log_sum_exp) : T{0};
}

// A block owns a tile of queries of one head: dQ = scale * sum over keys of dS K, where
// dS = P (dout V^T - delta) and P = exp(scores - log_sum_exp).
template <typename Real>
__global__ void __launch_bounds__(kThreads)
    attention_backward_queries_kernel(AttentionBackward<Real> p) {
  using T = Compute<Real>;
  DYNAMIC_SHARED(shared);
  SharedMemory<T> memory(shared);
  const int C = p.shape.C;
  const SharedRows<T> query = memory.take(C), dout = memory.take(C);
  const SharedRows<T> key = memory.take(C), value = memory.take(C);
  const SharedRows<T> dscores = memory.take(kTile<T>);
  const AttentionTile tile = attention_tile(p.shape, p.shape.H, kTile<T>, true);
  const int kv_head = tile.head / (p.shape.H / p.shape.K);
  const VisibleKeys visible = visible_keys<kTile<T>>(p.shape, tile.first_row, tile.begin);
  const T scale = static_cast<T>(p.shape.scale);
  load_rows(query, p.query, p.shape.H, p.shape, tile.first_row, tile.head, tile.begin);
  load_rows(dout, p.dout, p.shape.H, p.shape, tile.first_row, tile.head, tile.begin);
  __syncthreads();
  QueryStatistics<T> of[kRows<T>];
#pragma unroll
  for (int i = 0; i < kRows<T>; ++i) {
    const int row = thread_row() + kSide * i, q = tile.begin + row;
    const bool is_real = q < p.shape.S;
    const Real* out = p.out + row_index(p.shape, p.shape.H, tile.first_row, tile.head, q);
    const int64_t index = (tile.first_row + q) * p.shape.H + tile.head;
    T delta = 0;
    for (int c = thread_column(); is_real && c < C; c += kSide)
      delta += dout.at(row)[c] * load(out[c]);
    delta = warp_sum<kSide>(delta);
    if (is_real && thread_column() == 0) p.delta[index] = delta;
    of[i] = {is_real ? p.log_sum_exp[index] : T{0}, delta, q,
             first_key(p.shape, tile.first_row, q)};
  }
  Sums<T> sums = {};
  const int end = min(tile.begin + kTile<T>, p.shape.S);
  for (int first = visible.first / kTile<T> * kTile<T>; first < end; first += kTile<T>) {
    __syncthreads();  // nobody needs the last tile of keys any more
    load_rows(key, p.key, p.shape.K, p.shape, tile.first_row, kv_head, first);
    load_rows(value, p.value, p.shape.K, p.shape, tile.first_row, kv_head, first);
    __syncthreads();
    Scores<T> scores, dprobs;
    multiply_rows(scores, query, key, C);
    multiply_rows(dprobs, dout, value, C);
#pragma unroll
    for (int i = 0; i < kRows<T>; ++i)
#pragma unroll
      for (int j = 0; j < kRows<T>; ++j) {
        const int column = thread_column() + kSide * j;
        dscores.at(thread_row() + kSide * i)[column] =
            visible_prob(scores[i][j], scale, of[i], first + column) * (dprobs[i][j] - of[i].delta);
      }
    __syncthreads();
    add_weighted_rows(sums, dscores, key, C);
  }
  T factor[kRows<T>];
#pragma unroll
  for (T& f : factor) f = scale;
  write_rows(p.dquery, p.shape.H, p.shape, tile, sums, factor);
}

// A block owns a tile of keys of one key/value head: dV = sum of P^T dout, dK = scale * sum of
// dS^T Q, over query heads, ascending, and queries, ascending. Scores are transposed: a row per
// key. The two sums need more registers than ptxas gives a thread unless it is told that one block
// per multiprocessor is enough.
template <typename Real>
__global__ void __launch_bounds__(kThreads, 1)
    attention_backward_keys_kernel(AttentionBackward<Real> p) {
  using T = Compute<Real>;
  DYNAMIC_SHARED(shared);
  SharedMemory<T> memory(shared);
  const int C = p.shape.C;
  const SharedRows<T> key = memory.take(C), value = memory.take(C);
  const SharedRows<T> query = memory.take(C), dout = memory.take(C);
  const SharedRows<T> probs = memory.take(kTile<T>), dscores = memory.take(kTile<T>);
  const AttentionTile tile = attention_tile(p.shape, p.shape.K, kTile<T>, false);
  const T scale = static_cast<T>(p.shape.scale);
  load_rows(key, p.key, p.shape.K, p.shape, tile.first_row, tile.head, tile.begin);
  load_rows(value, p.value, p.shape.K, p.shape, tile.first_row, tile.head, tile.begin);
  Sums<T> dkey = {}, dvalue = {};
  for (QueryTiles<kTile<T>> next(p.shape, tile, kTile<T>); !next.done(); next.advance()) {
    __syncthreads();  // nobody needs the last tile of queries any more
    load_rows(query, p.query, p.shape.H, p.shape, tile.first_row, next.head, next.begin);
    load_rows(dout, p.dout, p.shape.H, p.shape, tile.first_row, next.head, next.begin);
    __syncthreads();
    Scores<T> scores, dprobs;
    multiply_rows(scores, key, query, C);
    multiply_rows(dprobs, value, dout, C);
#pragma unroll
    for (int j = 0; j < kRows<T>; ++j) {
      const int column = thread_column() + kSide * j, q = next.begin + column;
      const bool is_real = q < p.shape.S;
      const int64_t index = (tile.first_row + q) * p.shape.H + next.head;
      const QueryStatistics<T> of = {is_real ? p.log_sum_exp[index] : T{0},
                                     is_real ? p.delta[index] : T{0}, q,
                                     first_key(p.shape, tile.first_row, q)};
#pragma unroll
      for (int i = 0; i < kRows<T>; ++i) {
        const int row = thread_row() + kSide * i;
        const T prob = visible_prob(scores[i][j], scale, of, tile.begin + row);
        probs.at(row)[column] = prob;
        dscores.at(row)[column] = prob * (dprobs[i][j] - of.delta);
      }
    }
    __syncthreads();
    add_weighted_rows(dvalue, probs, dout, C);
    add_weighted_rows(dkey, dscores, query, C);
  }
  T one[kRows<T>], factor[kRows<T>];
#pragma unroll
  for (int i = 0; i < kRows<T>; ++i) {
    one[i] = 1;
    factor[i] = scale;
  }
  write_rows(p.dvalue, p.shape.K, p.shape, tile, dvalue, one);
  write_rows(p.dkey, p.shape.K, p.shape, tile, dkey, factor);
}

// ---- Launches ----

template <typename Real>
unsigned blocks(const AttentionShape& shape, int heads) {
  return static_cast<unsigned>(attention_blocks(shape, heads, kTile<Compute<Real>>));
}

template <typename Real>
void launch_attention(cudaStream_t stream, const AttentionForward<Real>& p) {
  if constexpr (sizeof(Real) == 2)
    if (fits_mma(p)) return launch_mma(stream, p);
  launch(stream, attention_forward_kernel<Real>,
         {blocks<Real>(p.shape, p.shape.H), kThreads, shared_bytes<Compute<Real>>(p.shape.C, 3, 1)},
         p);
}

template <typename Real>
void launch_attention(cudaStream_t stream, const AttentionBackward<Real>& p) {
  if constexpr (sizeof(Real) == 2)
    if (fits_mma(p)) return launch_mma(stream, p);
  launch(stream, attention_backward_queries_kernel<Real>,
         {blocks<Real>(p.shape, p.shape.H), kThreads, shared_bytes<Compute<Real>>(p.shape.C, 4, 1)},
         p);
  launch(stream, attention_backward_keys_kernel<Real>,
         {blocks<Real>(p.shape, p.shape.K), kThreads, shared_bytes<Compute<Real>>(p.shape.C, 4, 2)},
         p);
}

AttentionShape attention_shape(Tensor query, Tensor key, Tensor first_visible, int64_t head_dim,
                               int64_t sequence_length) {
  SY_CHECK(head_dim <= kMaxHeadDim,
           "attention on CUDA takes heads of at most {} channels, not {}: use more heads, or the "
           "CPU backend",
           kMaxHeadDim, head_dim);
  return {query.dim(0) / sequence_length,
          static_cast<int>(sequence_length),
          static_cast<int>(query.dim(1) / head_dim),
          static_cast<int>(key.dim(1) / head_dim),
          static_cast<int>(head_dim),
          1.0 / std::sqrt(static_cast<double>(head_dim)),
          first_visible.data<int32_t>()};
}

}  // namespace

void CudaOps::do_attention_forward(Queue q, Tensor out, Tensor log_sum_exp, Tensor query,
                                   Tensor key, Tensor value, Tensor first_visible, int64_t head_dim,
                                   int64_t sequence_length) {
  const AttentionShape shape =
      attention_shape(query, key, first_visible, head_dim, sequence_length);
  with_real(query.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const AttentionForward<Real> p = {shape,
                                      out.data<Real>(),
                                      log_sum_exp.data<Compute<Real>>(),
                                      query.data<Real>(),
                                      key.data<Real>(),
                                      value.data<Real>()};
    launch_attention(device_.stream(q), p);
  });
}

void CudaOps::do_attention_backward(Queue q, Tensor dquery, Tensor dkey, Tensor dvalue, Tensor dout,
                                    Tensor out, Tensor log_sum_exp, Tensor query, Tensor key,
                                    Tensor value, Tensor first_visible, int64_t head_dim,
                                    int64_t sequence_length) {
  const AttentionShape shape =
      attention_shape(query, key, first_visible, head_dim, sequence_length);
  with_real(query.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    using T = Compute<Real>;
    const AttentionBackward<Real> p = {
        shape,
        dquery.data<Real>(),
        dkey.data<Real>(),
        dvalue.data<Real>(),
        dout.data<Real>(),
        out.data<Real>(),
        log_sum_exp.data<T>(),
        query.data<Real>(),
        key.data<Real>(),
        value.data<Real>(),
        reinterpret_cast<T*>(device_.scratch(q, log_sum_exp.bytes()))};
    launch_attention(device_.stream(q), p);
  });
}

}  // namespace switchyard
