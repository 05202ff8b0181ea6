// Embedding lookup and its gradient.
#include <cstring>
#include <type_traits>

#include "backend/cuda/chunk.cuh"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "core/math.h"

namespace switchyard {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
constexpr uint32_t kNoRow = 0xFFFFFFFFu;  // the row of an id that is not in this slice

// ---- Forward ----

// One block for each token; a thread copies words of its row, in turns. An id outside the
// vocabulary cannot be reported from here: its row is not a number, and neither is the loss. Reads
// T ids and T rows of the table (none for ids of other slices); writes T rows of y.
template <typename Word>
__global__ void __launch_bounds__(kThreads)
    embedding_forward_kernel(Word* __restrict__ y, const Word* __restrict__ table,
                             const int32_t* __restrict__ ids, int64_t words, int64_t V,
                             int64_t first_id, int64_t vocab_size, Word zero, Word not_a_number) {
  const int64_t id = ids[blockIdx.x], row = id - first_id;
  const bool is_here = row >= 0 && row < V, is_known = id >= 0 && id < vocab_size;
  Word* target = y + blockIdx.x * words;
  for (int64_t i = threadIdx.x; i < words; i += kThreads)
    target[i] = is_here ? table[row * words + i] : is_known ? zero : not_a_number;
}

template <typename Word>
void copy_rows(cudaStream_t stream, Tensor y, Tensor table, Tensor ids, int64_t first_id,
               int64_t vocab_size) {
  Word zero, not_a_number;
  std::memset(&zero, 0, sizeof(Word));
  std::memset(&not_a_number, 0xFF, sizeof(Word));
  const int64_t row_bytes = table.dim(1) * static_cast<int64_t>(size_in_bytes(table.dtype()));
  launch(stream, embedding_forward_kernel<Word>, {static_cast<unsigned>(ids.dim(0)), kThreads},
         static_cast<Word*>(y.raw()), static_cast<const Word*>(table.raw()), ids.data<int32_t>(),
         row_bytes / static_cast<int64_t>(sizeof(Word)), table.dim(0), first_id, vocab_size, zero,
         not_a_number);
}

// ---- Backward: the tokens sorted by their row of the table, and the sums of runs of a row ----
// A key is (row, token): all keys differ, so that there is one sorted order.

__device__ __forceinline__ uint32_t row_of(uint64_t key) {
  return static_cast<uint32_t>(key >> 32);
}
__device__ __forceinline__ int64_t token_of(uint64_t key) {
  return static_cast<int64_t>(key & 0xFFFFFFFFu);
}

constexpr int kSortThreads = 512, kTile = 2 * kSortThreads;

// One block makes and sorts the keys of kTile tokens (bitonic, Batcher 1968). Reads T ids, writes T
// keys.
__global__ void __launch_bounds__(kSortThreads)
    sort_tiles_kernel(uint64_t* __restrict__ sorted, const int32_t* __restrict__ ids, int64_t T,
                      int64_t V, int64_t first_id) {
  SHARED_ARRAY(uint64_t, key, kTile);
  const int64_t begin = int64_t{blockIdx.x} * kTile;
  for (int i = static_cast<int>(threadIdx.x); i < kTile; i += kSortThreads) {
    const int64_t t = begin + i, row = t < T ? ids[t] - first_id : -1;
    const bool is_here = row >= 0 && row < V;
    key[i] = (is_here ? static_cast<uint64_t>(row) : kNoRow) << 32 | static_cast<uint64_t>(t);
  }
  for (int size = 2; size <= kTile; size *= 2)
    for (int distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();
      const int thread = static_cast<int>(threadIdx.x);
      const int i = 2 * thread - thread % distance, j = i + distance;
      const bool ascending = (i & size) == 0;
      const uint64_t low = key[i], high = key[j];
      if ((low > high) == ascending) {
        key[i] = high;
        key[j] = low;
      }
    }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kTile; i += kSortThreads)
    if (begin + i < T) sorted[begin + i] = key[i];
}

// Merges pairs of sorted runs of `run` keys: a key's place is its own, plus the keys of the other
// run that are smaller. One thread for each key. Reads T keys, and log2(run) in each search; writes
// T keys.
__global__ void __launch_bounds__(kThreads)
    merge_runs_kernel(uint64_t* __restrict__ merged, const uint64_t* __restrict__ sorted, int64_t T,
                      int64_t run) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= T) return;
  const uint64_t key = sorted[i];
  const int64_t pair = i / (2 * run) * (2 * run);
  const bool is_first = i < pair + run;
  const int64_t other = is_first ? pair + run : pair;
  int64_t low = other < T ? other : T, high = other + run < T ? other + run : T;
  const int64_t other_begin = low;
  while (low < high) {  // the keys before `low` are smaller, those from `high` on are not
    const int64_t middle = (low + high) / 2;
    if (sorted[middle] < key)
      low = middle + 1;
    else
      high = middle;
  }
  const int64_t own = is_first ? i - pair : i - pair - run;
  merged[pair + own + low - other_begin] = key;
}

// Sorted keys are cut into pieces of kPiece. The run of a row may begin before a piece, and may go
// on behind it: those sums are parts, of which row 2p of `part` is that of the run with which piece
// p begins, if it began before, and row 2p + 1 that of the run that begins in p and goes on.
constexpr int64_t kPiece = 32;

// Block p * column_blocks + c adds up columns c of the tokens of piece p, in order of tokens: whole
// runs into dtable, others into `part`. Reads T D Real of dy and T keys for each column block;
// reads and writes the rows of dtable that occur; writes at most 2 T / kPiece rows of parts.
template <int kWidth, typename Real>
__global__ void __launch_bounds__(kThreads)
    embedding_backward_kernel(Compute<Real>* __restrict__ dtable, Compute<Real>* __restrict__ part,
                              const Real* __restrict__ dy, const uint64_t* __restrict__ keys,
                              int64_t T, int64_t D, unsigned column_blocks) {
  using Sum = Chunk<Compute<Real>, kWidth>;
  const int64_t p = blockIdx.x / column_blocks;
  const int64_t d = (int64_t{blockIdx.x % column_blocks} * kThreads + threadIdx.x) * kWidth;
  if (d >= D) return;
  const int64_t begin = p * kPiece, end = begin + kPiece < T ? begin + kPiece : T;
  bool began_before = begin > 0 && row_of(keys[begin - 1]) == row_of(keys[begin]);
  Sum sum{};
  for (int64_t i = begin; i < end; ++i) {
    const uint64_t key = keys[i];
    const uint32_t row = row_of(key);
    if (row == kNoRow) return;  // as all that follow
    const auto gradient = load_chunk<kWidth>(dy + token_of(key) * D + d);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum.value[j] += gradient.value[j];
    const bool goes_on = i + 1 < T && row_of(keys[i + 1]) == row;
    if (goes_on && i + 1 < end) continue;
    const bool is_part = began_before || goes_on;
    Compute<Real>* target =
        is_part ? part + (2 * p + (began_before ? 0 : 1)) * D + d : dtable + int64_t{row} * D + d;
    if (!is_part) {
      const auto before = load_chunk<kWidth>(target);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) sum.value[j] += before.value[j];
    }
    store_chunk(target, sum);
    began_before = false;
    sum = Sum{};
  }
}

// Blocks as above. The parts of a run are added in their order, by the blocks of the piece in which
// it begins, then to dtable. Reads the parts, reads and writes the rows of dtable that have some.
template <int kWidth, typename Real>
__global__ void __launch_bounds__(kThreads)
    embedding_join_kernel(Real* __restrict__ dtable, const Real* __restrict__ part,
                          const uint64_t* __restrict__ keys, int64_t T, int64_t D,
                          unsigned column_blocks) {
  const int64_t p = blockIdx.x / column_blocks;
  const int64_t d = (int64_t{blockIdx.x % column_blocks} * kThreads + threadIdx.x) * kWidth;
  const int64_t begin = p * kPiece, end = begin + kPiece;
  if (d >= D || end >= T) return;
  const uint32_t row = row_of(keys[end]);
  if (row == kNoRow || row_of(keys[end - 1]) != row) return;  // nothing goes on here
  if (begin > 0 && row_of(keys[begin - 1]) == row) return;    // it began before
  Real* target = dtable + int64_t{row} * D + d;
  const auto before = load_chunk<kWidth>(target);
  auto sum = load_chunk<kWidth>(part + (2 * p + 1) * D + d);
  for (int64_t i = end; i < T && row_of(keys[i]) == row; i += kPiece) {
    const auto next = load_chunk<kWidth>(part + 2 * (i / kPiece) * D + d);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum.value[j] += next.value[j];
  }
#pragma unroll
  for (int j = 0; j < kWidth; ++j) sum.value[j] += before.value[j];
  store_chunk(target, sum);
}

// Returns the sorted keys, in one of two arrays of T.
const uint64_t* sort_tokens(cudaStream_t stream, uint64_t* keys, uint64_t* other, Tensor ids,
                            int64_t V, int64_t first_id) {
  const int64_t T = ids.dim(0);
  launch(stream, sort_tiles_kernel, {blocks_for(T, kTile), kSortThreads}, keys, ids.data<int32_t>(),
         T, V, first_id);
  for (int64_t run = kTile; run < T; run *= 2) {
    launch(stream, merge_runs_kernel, {blocks_for(T, kThreads), kThreads}, other, keys, T, run);
    std::swap(keys, other);
  }
  return keys;
}

}  // namespace

void CudaOps::do_embedding_forward(Queue q, Tensor y, Tensor table, Tensor ids, int64_t first_id,
                                   int64_t vocab_size) {
  const int64_t row_bytes = table.dim(1) * static_cast<int64_t>(size_in_bytes(table.dtype()));
  if (fits_packets(row_bytes, y.raw(), table.raw()))
    return copy_rows<uint4>(device_.stream(q), y, table, ids, first_id, vocab_size);
  with_real(table.dtype(), [&](auto zero) {
    using Word = std::conditional_t<sizeof(zero) == 2, uint16_t,
                                    std::conditional_t<sizeof(zero) == 4, uint32_t, uint64_t>>;
    copy_rows<Word>(device_.stream(q), y, table, ids, first_id, vocab_size);
  });
}

// Ids outside the vocabulary have had their say in the forward; here they are nobody's.
void CudaOps::do_embedding_backward(Queue q, Tensor dtable, Tensor dy, Tensor ids, int64_t first_id,
                                    int64_t) {
  with_real(dy.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    using Sum = Compute<Real>;
    const cudaStream_t stream = device_.stream(q);
    const int64_t T = ids.dim(0), V = dtable.dim(0), D = dtable.dim(1);
    const int64_t pieces = div_up(T, kPiece), key_bytes = round_up(T * 8, 256);
    std::byte* scratch =
        device_.scratch(q, 2 * key_bytes + 2 * pieces * D * static_cast<int64_t>(sizeof(Sum)));
    auto* part = reinterpret_cast<Sum*>(scratch + 2 * key_bytes);
    const uint64_t* keys =
        sort_tokens(stream, reinterpret_cast<uint64_t*>(scratch),
                    reinterpret_cast<uint64_t*>(scratch + key_bytes), ids, V, first_id);
    const bool fits = fits_packets(D * static_cast<int64_t>(sizeof(Real)), dtable.raw(), dy.raw());
    with_width<Packet<Real>::kSize>(fits, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const unsigned column_blocks = blocks_for(D, kThreads * kWidth);
      const LaunchShape shape = {static_cast<unsigned>(pieces) * column_blocks, kThreads};
      launch(stream, embedding_backward_kernel<kWidth, Real>, shape, dtable.data<Sum>(), part,
             dy.data<Real>(), keys, T, D, column_blocks);
      launch(stream, embedding_join_kernel<kWidth, Sum>, shape, dtable.data<Sum>(), part, keys, T,
             D, column_blocks);
    });
  });
}

}  // namespace switchyard
