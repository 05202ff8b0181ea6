// What the two implementations of attention share: attention_mma.cu (tensor cores, bf16) and
// attention.cu (plain arithmetic, any dtype). Both are FlashAttention (arXiv 2205.14135,
// 2307.08691): scores exist for one tile of queries and one of keys at a time; the backward
// recomputes them from the saved log-sum-exp. It takes two kernels, each of which owns what it
// writes, so that sums have a fixed order and need no atomics:
//   queries: a block owns a tile of dquery, and runs over the keys that its queries see
//   keys:    a block owns a tile of dkey and dvalue of one key/value head, and runs over the query
//            heads that share it and the queries that see its keys
// Tiles in which no query sees a key are skipped.
//
// Bytes, with q = bytes of the query and k of the key tensor, n tiles of queries per sequence:
// forward reads q and about n/2 times 2k (L2 holds most of it), writes q; the queries' kernel reads
// 3q and n/2 times 2k, writes q; the keys' kernel reads 2k and about n/2 times 2q, writes 2k.
#pragma once

#include "backend/cuda/reduce.cuh"
#include "backend/cuda/storage.cuh"

namespace switchyard::cuda {

struct AttentionShape {
  int64_t num_sequences;
  int S;        // tokens of a sequence
  int H, K, C;  // query heads, key/value heads, channels of a head
  double scale;
  const int32_t* first_visible;  // (T), counted from the first row of all
};

template <typename Real>
struct AttentionForward {
  AttentionShape shape;
  Real* out;
  Compute<Real>* log_sum_exp;
  const Real *query, *key, *value;
};

template <typename Real>
struct AttentionBackward {
  AttentionShape shape;
  Real *dquery, *dkey, *dvalue;
  const Real *dout, *out;
  const Compute<Real>* log_sum_exp;
  const Real *query, *key, *value;
  // (T, H), sum_c dout out: the gradient of scores is P (dP - delta). Written by the queries'
  // kernel, read by the keys'.
  Compute<Real>* delta;
};

// Tensor cores: rows must be whole packets of 16 bytes.
bool fits_mma(const AttentionForward<BFloat16>& p);
bool fits_mma(const AttentionBackward<BFloat16>& p);
void launch_mma(cudaStream_t stream, const AttentionForward<BFloat16>& p);
void launch_mma(cudaStream_t stream, const AttentionBackward<BFloat16>& p);

// A block's tile of one head of one sequence. `begin` counts from the first row of the sequence.
struct AttentionTile {
  int64_t first_row;  // of the sequence
  int head, begin;
};

// Blocks of neighbouring numbers work on the same rows, so that L2 serves them together. Tiles in
// ascending order, or descending: those with most to do come first.
__device__ __forceinline__ AttentionTile attention_tile(const AttentionShape& shape, int heads,
                                                        int tile_size, bool descending) {
  const int64_t head_and_sequence = blockIdx.x % (heads * shape.num_sequences);
  const int tile = static_cast<int>(blockIdx.x / (heads * shape.num_sequences));
  const int tiles = (shape.S + tile_size - 1) / tile_size;
  return {head_and_sequence / heads * shape.S, static_cast<int>(head_and_sequence % heads),
          (descending ? tiles - 1 - tile : tile) * tile_size};
}

inline int64_t attention_blocks(const AttentionShape& shape, int heads, int tile_size) {
  return (shape.S + tile_size - 1) / tile_size * shape.num_sequences * heads;
}

// The first key that query `q` of the sequence sees; queries beyond its end see none.
__device__ __forceinline__ int first_key(const AttentionShape& shape, int64_t first_row, int q) {
  return q < shape.S ? static_cast<int>(shape.first_visible[first_row + q] - first_row) : INT32_MAX;
}

// Over a tile of queries: what the first of them sees, and from where on all of them see. Warps
// call as a whole.
struct VisibleKeys {
  int first, all_from;
};
template <int kQueries>
__device__ __forceinline__ VisibleKeys visible_keys(const AttentionShape& shape, int64_t first_row,
                                                    int begin) {
  int smallest = INT32_MAX, largest = 0;
  for (int i = static_cast<int>(threadIdx.x) % kWarpSize; i < kQueries; i += kWarpSize) {
    const int q = begin + i;
    if (q >= shape.S) break;
    const int first = first_key(shape, first_row, q);
    smallest = first < smallest ? first : smallest;
    largest = first > largest ? first : largest;
  }
  return {-warp_max(-smallest), warp_max(largest)};
}

// Whether any of the kQueries <= 32 queries from `begin` on sees a key before `key_end`. Warps call
// as a whole.
template <int kQueries>
__device__ __forceinline__ bool any_sees(const AttentionShape& shape, int64_t first_row, int begin,
                                         int key_end) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const bool sees = lane < kQueries && first_key(shape, first_row, begin + lane) < key_end;
  return __any_sync(kWholeWarp, sees) != 0;
}

// The tiles of queries that a tile of keys runs over: of every query head of its group, those that
// see one of its keys. All warps go through the same.
template <int kQueries>
struct QueryTiles {
  const AttentionShape& shape;
  int64_t first_row;
  int first_begin, key_end, last_head;
  int head, begin;

  __device__ __forceinline__ QueryTiles(const AttentionShape& s, const AttentionTile& keys,
                                        int tile_keys)
      : shape(s),
        first_row(keys.first_row),
        first_begin(keys.begin / kQueries * kQueries),
        key_end(keys.begin + tile_keys),
        last_head((keys.head + 1) * (s.H / s.K) - 1),
        head(keys.head * (s.H / s.K)),
        begin(first_begin) {
    skip();
  }
  __device__ __forceinline__ bool done() const { return head > last_head; }
  __device__ __forceinline__ void advance() {
    begin += kQueries;
    skip();
  }

 private:
  __device__ __forceinline__ void skip() {
    while (!done()) {
      if (begin >= shape.S) {
        ++head;
        begin = first_begin;
      } else if (any_sees<kQueries>(shape, first_row, begin, key_end)) {
        return;
      } else {
        begin += kQueries;
      }
    }
  }
};

}  // namespace switchyard::cuda
