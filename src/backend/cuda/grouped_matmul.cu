// Products of the experts: one launch for all of them. How many rows an expert has is read on the
// device, so that no count has to reach the host.
//
// bf16 operands whose rows are whole 16-byte packets go through the tensor cores; everything else
// (f32, f64, mixtures, odd widths) through one kernel of plain arithmetic.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/mma_tile.cuh"
#include "core/math.h"

namespace switchyard {
namespace {

using namespace cuda;

struct Operand {
  void* data;
  int64_t stride;  // elements from row to row
  DType dtype;
  Terms terms;
};

// c (m, n) = sum over k terms of a and b, of each expert; plus what c holds if `adds`.
struct GroupedProduct {
  Operand c, a, b;
  int64_t m, n, k;          // the size that is cut into experts is that of all of them
  int64_t expert_elements;  // from the weight, or weight gradient, of an expert to the next
  const int32_t* begin;     // (num_experts + 1): bounds of what each owns
  int num_experts;
  bool adds;
  bool cuts_terms;  // experts own terms, and a matrix c each; else rows of a and c
};

// A block's part of the product: a tile of c, as offsets into the operands.
struct Share {
  int64_t a = 0, b = 0, c = 0;
  int rows = 0, columns = 0, terms = 0;  // no rows: the block has nothing to do
};

// As many row tiles as any division of the rows among the experts needs.
__host__ __device__ inline int64_t max_row_tiles(const GroupedProduct& p, int tile) {
  return p.m / tile + (p.num_experts < p.m ? p.num_experts : p.m);
}

unsigned grouped_blocks(const GroupedProduct& p, int tile) {
  const int64_t columns = div_up(p.n, tile);
  return static_cast<unsigned>(p.cuts_terms
                                   ? (p.k == 0 ? 0 : p.num_experts * div_up(p.m, tile) * columns)
                                   : max_row_tiles(p, tile) * columns);
}

// Where the rows (or columns) of an operand's tile begin: outputs are rows if its terms are in
// rows.
__device__ __forceinline__ int64_t at_output(const Operand& x, int64_t output) {
  return x.terms == Terms::kInRow ? output * x.stride : output;
}

// Experts own rows: tiles are counted from expert to expert, each of which starts a new one. Blocks
// next to each other share columns of b.
__device__ __forceinline__ Share share_of_rows(const GroupedProduct& p, int tile_size) {
  const int64_t row_tiles = max_row_tiles(p, tile_size);
  int64_t tile = blockIdx.x % row_tiles;
  const int64_t column = blockIdx.x / row_tiles * tile_size;
  Share share;
  for (int e = 0; e < p.num_experts; ++e) {
    const int64_t first = p.begin[e], last = p.begin[e + 1];
    const int64_t tiles = (last - first + tile_size - 1) / tile_size;
    if (tile >= tiles) {
      tile -= tiles;
      continue;
    }
    const int64_t row = first + tile * tile_size;
    share.a = row * p.a.stride;
    share.b = e * p.expert_elements + at_output(p.b, column);
    share.c = row * p.c.stride + column;
    share.terms = static_cast<int>(p.k);
    share.rows = static_cast<int>(last - row < tile_size ? last - row : tile_size);
    share.columns = static_cast<int>(p.n - column < tile_size ? p.n - column : tile_size);
    return share;
  }
  return share;
}

// Experts own terms: each has all tiles of its own c.
__device__ __forceinline__ Share share_of_terms(const GroupedProduct& p, int tile_size) {
  const int64_t rows = (p.m + tile_size - 1) / tile_size;
  const int64_t columns = (p.n + tile_size - 1) / tile_size;
  const int64_t e = blockIdx.x / (rows * columns);
  const int64_t row = blockIdx.x % rows * tile_size;
  const int64_t column = blockIdx.x / rows % columns * tile_size;
  const int64_t first = p.begin[e], last = p.begin[e + 1];
  Share share;
  if (first >= last) return share;  // an expert may receive no tokens
  share.a = first * p.a.stride + row;
  share.b = first * p.b.stride + column;
  share.c = e * p.expert_elements + row * p.c.stride + column;
  share.terms = static_cast<int>(last - first);
  share.rows = static_cast<int>(p.m - row < tile_size ? p.m - row : tile_size);
  share.columns = static_cast<int>(p.n - column < tile_size ? p.n - column : tile_size);
  return share;
}

__device__ __forceinline__ Share find_share(const GroupedProduct& p, int tile_size) {
  return p.cuts_terms ? share_of_terms(p, tile_size) : share_of_rows(p, tile_size);
}

// ---- Tensor cores ----

constexpr int kMmaTile = 128;
constexpr int kMmaDepth = 32;  // terms of a stage
constexpr int kMmaStages = 3;
constexpr int kMmaThreads = 256;

template <Terms kTerms>
using OperandTile = std::conditional_t<kTerms == Terms::kInRow, Tile<kMmaTile, kMmaDepth>,
                                       Tile<kMmaDepth, kMmaTile>>;

// Starts copying the terms of one stage: those from `term` on of the operand at `source`.
template <Terms kTerms>
__device__ __forceinline__ void copy_terms(unsigned char* memory, const BFloat16* source,
                                           int64_t stride, int outputs, int term, int terms) {
  const OperandTile<kTerms> tile(memory);
  if constexpr (kTerms == Terms::kInRow)
    copy_tile<kMmaThreads>(tile, source + term, stride, outputs, terms - term);
  else
    copy_tile<kMmaThreads>(tile, source + term * stride, stride, terms - term, outputs);
}

__device__ __forceinline__ void write_pair(float* c, float x0, float x1, bool adds) {
  float2* pair = reinterpret_cast<float2*>(c);
  const float2 old = adds ? *pair : float2{0, 0};
  *pair = float2{old.x + x0, old.y + x1};
}
__device__ __forceinline__ void write_pair(BFloat16* c, float x0, float x1, bool adds) {
  uint32_t* pair = reinterpret_cast<uint32_t*>(c);
  const uint32_t old = adds ? *pair : 0;
  *pair = two_bf16(__uint_as_float(old << 16) + x0, __uint_as_float(old & 0xFFFF0000u) + x1);
}

// A block of 8 warps computes 128x128 elements of c, a warp 64x32 of them in f32 registers. Terms
// arrive in stages of 32 by cp.async, two stages ahead (CUTLASS's multistage pipeline); the barrier
// that shows a stage to all also frees the one before it. Sums are f32 in a fixed order: terms
// ascend. Reads a once per 128 columns and b once per 128 rows, writes c once (and reads it if it
// adds).
template <Terms kA, Terms kB, typename Out>
__global__ void __launch_bounds__(kMmaThreads, 2) grouped_matmul_mma_kernel(GroupedProduct p) {
  DYNAMIC_SHARED(shared);
  constexpr int kBytesA = OperandTile<kA>::kBytes, kStage = kBytesA + OperandTile<kB>::kBytes;
  SHARED_ARRAY(Share, of_block, 1);
  if (threadIdx.x == 0) of_block[0] = find_share(p, kMmaTile);
  __syncthreads();
  const Share share = of_block[0];
  if (share.rows == 0) return;
  const auto* a = static_cast<const BFloat16*>(p.a.data) + share.a;
  const auto* b = static_cast<const BFloat16*>(p.b.data) + share.b;
  const auto start = [&](int step) {
    unsigned char* stage = shared + step % kMmaStages * kStage;
    copy_terms<kA>(stage, a, p.a.stride, share.rows, step * kMmaDepth, share.terms);
    copy_terms<kB>(stage + kBytesA, b, p.b.stride, share.columns, step * kMmaDepth, share.terms);
  };
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp_row = warp % 2 * 64, warp_column = warp / 2 * 32;
  const int steps = (share.terms + kMmaDepth - 1) / kMmaDepth;
  float sum[4][4][4] = {};
  for (int step = 0; step < kMmaStages - 1; ++step) {
    if (step < steps) start(step);
    cp_async_commit();
  }
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<kMmaStages - 2>();
    __syncthreads();
    if (step + kMmaStages - 1 < steps) start(step + kMmaStages - 1);
    cp_async_commit();
    const OperandTile<kA> a_tile(shared + step % kMmaStages * kStage);
    const OperandTile<kB> b_tile(shared + step % kMmaStages * kStage + kBytesA);
#pragma unroll
    for (int term = 0; term < kMmaDepth; term += 16) {
      uint32_t b_part[2][2][2];
      load_b<kB>(b_part[0], b_tile, term, warp_column);
      load_b<kB>(b_part[1], b_tile, term, warp_column + 16);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t a_part[4];
        load_a<kA>(a_part, a_tile, warp_row + i * 16, term);
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_m16n8k16(sum[i][j], a_part, b_part[j / 2][j % 2]);
      }
    }
  }
  Out* c = static_cast<Out*>(p.c.data) + of_block[0].c;  // not kept in registers meanwhile
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + i * 16 + half * 8 + lane / 4;
      if (row >= share.rows) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = warp_column + j * 8 + lane % 4 * 2;
        if (column < share.columns)
          write_pair(c + row * p.c.stride + column, sum[i][j][2 * half], sum[i][j][2 * half + 1],
                     p.adds);
      }
    }
}

// Whether every row of the operands is made of whole packets.
bool fits_mma(const GroupedProduct& p) {
  if (p.a.dtype != DType::kBF16 || p.b.dtype != DType::kBF16) return false;
  const auto row_bytes = [](const Operand& x) { return x.stride * 2; };
  return fits_packets(row_bytes(p.a), p.a.data) && fits_packets(row_bytes(p.b), p.b.data) &&
         fits_packets(row_bytes(p.c), p.c.data);
}

template <Terms kA, Terms kB, typename Out>
void launch_mma(cudaStream_t stream, const GroupedProduct& p) {
  constexpr size_t kShared = kMmaStages * (OperandTile<kA>::kBytes + OperandTile<kB>::kBytes);
  launch(stream, grouped_matmul_mma_kernel<kA, kB, Out>,
         {grouped_blocks(p, kMmaTile), kMmaThreads, kShared}, p);
}

template <typename Out>
void launch_mma(cudaStream_t stream, const GroupedProduct& p) {
  constexpr Terms kInRow = Terms::kInRow, kInColumn = Terms::kInColumn;
  if (p.cuts_terms) return launch_mma<kInColumn, kInColumn, Out>(stream, p);
  if (p.b.terms == kInRow) return launch_mma<kInRow, kInRow, Out>(stream, p);
  launch_mma<kInRow, kInColumn, Out>(stream, p);
}

// ---- Plain arithmetic ----

constexpr int kPlainTile = 64;
constexpr int kPlainDepth = 16;
constexpr int kPlainThreads = 256;

template <typename T>
__device__ __forceinline__ T element(const Operand& x, int64_t index) {
  if (x.dtype == DType::kBF16)
    return static_cast<T>(cuda::load(static_cast<const BFloat16*>(x.data)[index]));
  return static_cast<const T*>(x.data)[index];
}

// Brings `outputs` by `terms` elements of an operand into shared memory, term by term; zeros
// beyond. Threads next to each other read elements next to each other.
template <typename T>
__device__ __forceinline__ void load_terms(T (&tile)[kPlainDepth][kPlainTile + 1], const Operand& x,
                                           int64_t offset, int outputs, int terms) {
  const bool in_row = x.terms == Terms::kInRow;
#pragma unroll
  for (int i = 0; i < kPlainTile * kPlainDepth / kPlainThreads; ++i) {
    const int number = static_cast<int>(threadIdx.x) + i * kPlainThreads;
    const int output = in_row ? number / kPlainDepth : number % kPlainTile;
    const int term = in_row ? number % kPlainDepth : number / kPlainTile;
    const int64_t index = in_row ? output * x.stride + term : term * x.stride + output;
    tile[term][output] = output < outputs && term < terms ? element<T>(x, offset + index) : T{0};
  }
}

// A block of 16x16 threads computes 64x64 elements of c, a thread 4x4 of them that lie 16 apart.
// Sums are T in a fixed order: terms ascend. Reads a once per 64 columns and b once per 64 rows,
// writes c once (and reads it if it adds).
template <typename T>
__global__ void __launch_bounds__(kPlainThreads, 1) grouped_matmul_kernel(GroupedProduct p) {
  using Stage = T[kPlainTile + 1];
  SHARED_ARRAY(Stage, a_tile, kPlainDepth);
  SHARED_ARRAY(Stage, b_tile, kPlainDepth);
  const Share share = find_share(p, kPlainTile);
  if (share.rows == 0) return;
  const int thread_row = static_cast<int>(threadIdx.x) / 16;
  const int thread_column = static_cast<int>(threadIdx.x) % 16;
  T sum[4][4] = {};
  for (int term = 0; term < share.terms; term += kPlainDepth) {
    const auto offset = [term](const Operand& x) {
      return x.terms == Terms::kInRow ? int64_t{term} : term * x.stride;
    };
    load_terms(a_tile, p.a, share.a + offset(p.a), share.rows, share.terms - term);
    load_terms(b_tile, p.b, share.b + offset(p.b), share.columns, share.terms - term);
    __syncthreads();
#pragma unroll
    for (int t = 0; t < kPlainDepth; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          sum[i][j] += a_tile[t][thread_row + 16 * i] * b_tile[t][thread_column + 16 * j];
    __syncthreads();  // the tiles are free for the next terms
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = thread_row + 16 * i, column = thread_column + 16 * j;
      if (row >= share.rows || column >= share.columns) continue;
      const int64_t index = share.c + row * p.c.stride + column;
      const T value = p.adds ? element<T>(p.c, index) + sum[i][j] : sum[i][j];
      if (p.c.dtype == DType::kBF16)
        cuda::store(static_cast<BFloat16*>(p.c.data)[index], static_cast<float>(value));
      else
        static_cast<T*>(p.c.data)[index] = value;
    }
}

template <typename T>
void launch_plain(cudaStream_t stream, const GroupedProduct& p) {
  launch(stream, grouped_matmul_kernel<T>, {grouped_blocks(p, kPlainTile), kPlainThreads}, p);
}

// ---- The products ----

void multiply(cudaStream_t stream, const GroupedProduct& p) {
  if (fits_mma(p))
    p.c.dtype == DType::kBF16 ? launch_mma<BFloat16>(stream, p) : launch_mma<float>(stream, p);
  else
    p.c.dtype == DType::kF64 ? launch_plain<double>(stream, p) : launch_plain<float>(stream, p);
}

Operand operand(Tensor tensor, Terms terms) {
  return {tensor.raw(), tensor.dim(tensor.rank() - 1), tensor.dtype(), terms};
}

GroupedProduct grouped(Operand c, Operand a, Operand b, Tensor w_LNK, Tensor begin_L1) {
  GroupedProduct p{};
  p.c = c;
  p.a = a;
  p.b = b;
  p.expert_elements = w_LNK.dim(1) * w_LNK.dim(2);
  p.begin = begin_L1.data<int32_t>();
  p.num_experts = static_cast<int>(w_LNK.dim(0));
  return p;
}

GroupedProduct nn(Tensor x_RK, Tensor y_RN, Tensor w_LNK, Tensor begin_L1, bool adds) {
  GroupedProduct p = grouped(operand(x_RK, Terms::kInRow), operand(y_RN, Terms::kInRow),
                             operand(w_LNK, Terms::kInColumn), w_LNK, begin_L1);
  p.m = x_RK.dim(0);
  p.n = x_RK.dim(1);
  p.k = y_RN.dim(1);
  p.adds = adds;
  return p;
}

}  // namespace

void CudaOps::do_grouped_matmul_nt(Queue q, Tensor y_RN, Tensor x_RK, Tensor w_LNK,
                                   Tensor begin_L1) {
  GroupedProduct p = grouped(operand(y_RN, Terms::kInRow), operand(x_RK, Terms::kInRow),
                             operand(w_LNK, Terms::kInRow), w_LNK, begin_L1);
  p.m = y_RN.dim(0);
  p.n = y_RN.dim(1);
  p.k = x_RK.dim(1);
  multiply(device_.stream(q), p);
}

void CudaOps::do_grouped_matmul_nn(Queue q, Tensor x_RK, Tensor y_RN, Tensor w_LNK,
                                   Tensor begin_L1) {
  multiply(device_.stream(q), nn(x_RK, y_RN, w_LNK, begin_L1, false));
}

void CudaOps::do_grouped_matmul_nn_add(Queue q, Tensor x_RK, Tensor y_RN, Tensor w_LNK,
                                       Tensor begin_L1) {
  multiply(device_.stream(q), nn(x_RK, y_RN, w_LNK, begin_L1, true));
}

void CudaOps::do_grouped_matmul_tn_add(Queue q, Tensor w_LNK, Tensor y_RN, Tensor x_RK,
                                       Tensor begin_L1) {
  GroupedProduct p = grouped(operand(w_LNK, Terms::kInRow), operand(y_RN, Terms::kInColumn),
                             operand(x_RK, Terms::kInColumn), w_LNK, begin_L1);
  p.m = y_RN.dim(1);
  p.n = x_RK.dim(1);
  p.k = y_RN.dim(0);
  p.adds = true;
  p.cuts_terms = true;
  multiply(device_.stream(q), p);
}

}  // namespace switchyard
