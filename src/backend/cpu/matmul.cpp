// Matrix products. Threads cut the output into tiles; each tile is one call of a one-thread BLAS.
// Which tile a thread owns depends on the sizes alone. Every element is summed by one BLAS call.
//
// A product with bf16 in it runs in f32, tile by tile in blocks: blocks of operands are converted
// into the thread's scratch memory, the block of the output is summed there and rounded once.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/storage.h"

namespace switchyard {
namespace {

// A row-major matrix: element (i, j), before transposition, is number i * stride + j.
struct Matrix {
  std::byte* data;
  DType dtype;
  int64_t stride;
  Transpose transpose = Transpose::kNo;

  Matrix(Tensor tensor, int64_t width)
      : data(static_cast<std::byte*>(tensor.raw())), dtype(tensor.dtype()), stride(width) {}

  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
  Matrix transposed() const {
    Matrix other = *this;
    other.transpose = Transpose::kYes;
    return other;
  }
  // The matrix from row `i` and column `j` on, after transposition.
  Matrix from(int64_t i, int64_t j) const {
    return transpose == Transpose::kYes ? advanced(j * stride + i) : advanced(i * stride + j);
  }
  Matrix advanced(int64_t elements) const {
    Matrix other = *this;
    other.data += elements * static_cast<int64_t>(size_in_bytes(dtype));
    return other;
  }
};

// c (m, n) = a (m, k) b (k, n), plus what c holds if `adds`.
struct Product {
  Matrix c, a, b;
  int64_t m, n, k;
  bool adds;

  // The same product for rows [i0, i1) and columns [j0, j1) of c.
  Product tile(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
    return {c.from(i0, j0), a.from(i0, 0), b.from(0, j0), i1 - i0, j1 - j0, k, adds};
  }
  bool is_all(DType dtype) const {
    return c.dtype == dtype && a.dtype == dtype && b.dtype == dtype;
  }
};

// A product over no terms. Its operands have leading dimension 0, which the BLAS standard forbids.
void empty_sum(const Product& p) {
  if (p.adds) return;
  const auto row_bytes = static_cast<size_t>(p.n) * size_in_bytes(p.c.dtype);
  for (int64_t i = 0; i < p.m; ++i) std::memset(p.c.from(i, 0).data, 0, row_bytes);
}

template <typename T>
void multiply(const Product& p) {
  gemm(p.a.transpose, p.b.transpose, p.m, p.n, p.k, T{1}, p.a.as<T>(), p.a.stride, p.b.as<T>(),
       p.b.stride, p.adds ? T{1} : T{0}, p.c.as<T>(), p.c.stride);
}

// Blocks of the output and of the sum. A converted element serves as many multiply-adds as the
// block has rows or columns: 512 hide the conversion, and three such blocks are 5 MB at most.
constexpr int64_t kBlockRows = 512, kBlockColumns = 512, kBlockTerms = 1024;
// Rows of a converted block do not all begin in the same sets of the cache.
constexpr int64_t kPadding = 16;

int64_t block_elements(int64_t rows, int64_t columns) {
  return (rows + kPadding) * (columns + kPadding);
}

// The first `rows` rows and `columns` columns of x as f32: x itself, or a copy in `memory`, whose
// values are undefined unless they count.
Matrix as_f32(const Matrix& x, int64_t rows, int64_t columns, float* memory, bool values = true) {
  if (x.dtype == DType::kF32) return x;
  if (x.transpose == Transpose::kYes) std::swap(rows, columns);
  Matrix copy = x;
  copy.data = reinterpret_cast<std::byte*>(memory);
  copy.dtype = DType::kF32;
  copy.stride = columns + kPadding;
  for (int64_t i = 0; values && i < rows; ++i)
    convert_span(memory + i * copy.stride, x.as<BFloat16>() + i * x.stride, columns);
  return copy;
}

void round_block(const Matrix& to, const Matrix& from, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i)
    convert_span(to.as<BFloat16>() + i * to.stride, from.as<float>() + i * from.stride, columns);
}

// For bf16 and f32 in any mixture.
void multiply_in_blocks(const Product& p, Scratch& scratch) {
  const int64_t rows = std::min(p.m, kBlockRows), columns = std::min(p.n, kBlockColumns);
  const int64_t terms = std::min(p.k, kBlockTerms);
  float* const a_memory = scratch.take<float>(
      block_elements(rows, terms) + block_elements(terms, columns) + block_elements(rows, columns));
  float* const b_memory = a_memory + block_elements(rows, terms);
  float* const c_memory = b_memory + block_elements(terms, columns);
  Matrix b_block = p.b;
  for (int64_t j = 0; j < p.n; j += kBlockColumns)
    for (int64_t i = 0; i < p.m; i += kBlockRows) {
      const Product block =
          p.tile(i, std::min(p.m, i + kBlockRows), j, std::min(p.n, j + kBlockColumns));
      Product part = block;  // over some of the terms, in f32
      part.c = as_f32(block.c, block.m, block.n, c_memory, p.adds);
      for (int64_t l = 0; l < p.k; l += kBlockTerms) {
        part.k = std::min(kBlockTerms, p.k - l);
        part.adds = p.adds || l > 0;
        part.a = as_f32(block.a.from(0, l), block.m, part.k, a_memory);
        // With one block of terms, that of b stays for all rows.
        if (i == 0 || p.k > kBlockTerms)
          b_block = as_f32(block.b.from(l, 0), part.k, block.n, b_memory);
        part.b = b_block;
        multiply<float>(part);
      }
      if (p.c.dtype == DType::kBF16) round_block(block.c, part.c, block.m, block.n);
    }
}

void multiply(const Product& p, Scratch& scratch) {
  if (p.m <= 0 || p.n <= 0) return;
  if (p.k == 0) return empty_sum(p);
  if (p.is_all(DType::kF64)) return multiply<double>(p);
  if (p.is_all(DType::kF32)) return multiply<float>(p);
  multiply_in_blocks(p, scratch);
}

// Tiles end at multiples of this, where BLAS kernels of every CPU have no edge.
constexpr int64_t kTileUnit = 16;
// Multiply-adds below which a second thread does not pay.
constexpr int64_t kMultiplyAddsPerThread = 1 << 17;

int64_t cut(int64_t size, int64_t part, int64_t parts) {
  return std::min(size, div_up(size, kTileUnit) * part / parts * kTileUnit);
}

// How many rows and columns of tiles the output is cut into.
struct TileGrid {
  int64_t rows, columns;
};

// One tile per thread, as square as possible: a BLAS call packs its rows of a and columns of b.
TileGrid choose_grid(int num_threads, int64_t m, int64_t n, int64_t k) {
  const auto threads = std::clamp<int64_t>(m * n * k / kMultiplyAddsPerThread, 1, num_threads);
  TileGrid best = {1, 1};
  double best_cost = static_cast<double>(INT64_MAX);
  for (int64_t rows = 1; rows <= threads; ++rows) {
    const TileGrid grid = {rows, threads / rows};
    const auto tile_m = static_cast<double>(round_up(div_up(m, grid.rows), kTileUnit));
    const auto tile_n = static_cast<double>(round_up(div_up(n, grid.columns), kTileUnit));
    const double packing = 8 * (tile_m + tile_n);  // an element packed costs about 8 multiply-adds
    const double cost = tile_m * tile_n + packing;
    if (cost < best_cost) {
      best_cost = cost;
      best = grid;
    }
  }
  return best;
}

void parallel_multiply(int num_threads, Scratch& scratch, const Product& p) {
  const TileGrid grid = choose_grid(num_threads, p.m, p.n, p.k);
  parallel_tasks(num_threads, grid.rows * grid.columns, [&](int64_t task) {
    const int64_t i = task / grid.columns, j = task % grid.columns;
    multiply(p.tile(cut(p.m, i, grid.rows), cut(p.m, i + 1, grid.rows), cut(p.n, j, grid.columns),
                    cut(p.n, j + 1, grid.columns)),
             scratch);
  });
}

// y (T, N), x (T, K) and the weight w (N, K) of one layer or one expert.
struct Operands {
  Matrix y, x, w;
  int64_t rows, N, K;

  Operands(Tensor y_TN, Tensor x_TK, Tensor w_NK)
      : y(y_TN, y_TN.dim(1)),
        x(x_TK, x_TK.dim(1)),
        w(w_NK, x_TK.dim(1)),
        rows(y_TN.dim(0)),
        N(y_TN.dim(1)),
        K(x_TK.dim(1)) {}

  Operands of_expert(int64_t e, int64_t begin, int64_t end) const {
    Operands one = *this;
    one.y = y.from(begin, 0);
    one.x = x.from(begin, 0);
    one.w = w.from(e * N, 0);
    one.rows = end - begin;
    return one;
  }

  Product nt() const { return {y, x, w.transposed(), rows, N, K, false}; }
  Product nn(bool adds) const { return {x, y, w, rows, K, N, adds}; }
  Product tn_add() const { return {w, y.transposed(), x, N, K, rows, true}; }
};

// The rows of all experts are cut evenly, wherever an expert begins: a thread's rows of one expert
// are one BLAS call. With few rows the columns are cut too. make_product(operands of some rows).
template <typename MakeProduct>
void grouped_by_rows(int num_threads, Scratch& scratch, const Operands& all, Tensor begin_L1,
                     const MakeProduct& make_product) {
  const int32_t* begin = begin_L1.data<int32_t>();
  const int64_t num_experts = begin_L1.numel() - 1;
  const Product whole = make_product(all);
  const TileGrid grid = choose_grid(num_threads, whole.m, whole.n, whole.k);
  parallel_tasks(num_threads, grid.rows * grid.columns, [&](int64_t task) {
    const int64_t i = task / grid.columns, j = task % grid.columns;
    const int64_t row0 = cut(all.rows, i, grid.rows), row1 = cut(all.rows, i + 1, grid.rows);
    for (int64_t e = 0; e < num_experts; ++e) {
      const int64_t first = std::max<int64_t>(row0, begin[e]);
      const int64_t last = std::min<int64_t>(row1, begin[e + 1]);
      if (first >= last) continue;
      const Product product = make_product(all.of_expert(e, first, last));
      multiply(product.tile(0, product.m, cut(product.n, j, grid.columns),
                            cut(product.n, j + 1, grid.columns)),
               scratch);
    }
  });
}

// Weight gradients: row n of expert e costs as many multiply-adds (times K) as e has rows. The rows
// of all experts' gradients stand in one line, cut where the cost is even.
void grouped_tn_add(int num_threads, Scratch& scratch, const Operands& all, Tensor begin_L1) {
  const int32_t* begin = begin_L1.data<int32_t>();
  const int64_t num_experts = begin_L1.numel() - 1, N = all.N;
  const int64_t cost = all.rows * N;
  const int64_t parts = std::clamp<int64_t>(cost * all.K / kMultiplyAddsPerThread, 1, num_threads);
  parallel_tasks(num_threads, parts, [&](int64_t part) {
    const int64_t cost0 = cost * part / parts, cost1 = cost * (part + 1) / parts;
    for (int64_t e = 0; e < num_experts; ++e) {
      const int64_t rows = begin[e + 1] - begin[e];
      if (rows == 0) continue;  // an expert may receive no tokens
      const auto row_at = [&](int64_t c) {
        const int64_t row = (std::max<int64_t>(c - begin[e] * N, 0) + rows - 1) / rows;
        return std::min(N, round_up(row, kTileUnit));
      };
      const Product product = all.of_expert(e, begin[e], begin[e + 1]).tn_add();
      multiply(product.tile(row_at(cost0), row_at(cost1), 0, product.n), scratch);
    }
  });
}

}  // namespace

void CpuOps::do_matmul_nt(Queue, Tensor y_TN, Tensor x_TK, Tensor w_NK) {
  parallel_multiply(num_threads_, scratch_, Operands(y_TN, x_TK, w_NK).nt());
}

void CpuOps::do_matmul_nn(Queue, Tensor x_TK, Tensor y_TN, Tensor w_NK) {
  parallel_multiply(num_threads_, scratch_, Operands(y_TN, x_TK, w_NK).nn(false));
}

void CpuOps::do_matmul_nn_add(Queue, Tensor x_TK, Tensor y_TN, Tensor w_NK) {
  parallel_multiply(num_threads_, scratch_, Operands(y_TN, x_TK, w_NK).nn(true));
}

void CpuOps::do_matmul_tn_add(Queue, Tensor w_NK, Tensor y_TN, Tensor x_TK) {
  parallel_multiply(num_threads_, scratch_, Operands(y_TN, x_TK, w_NK).tn_add());
}

void CpuOps::do_grouped_matmul_nt(Queue, Tensor y_RN, Tensor x_RK, Tensor w_LNK, Tensor begin_L1) {
  grouped_by_rows(num_threads_, scratch_, Operands(y_RN, x_RK, w_LNK), begin_L1,
                  [](const Operands& part) { return part.nt(); });
}

void CpuOps::do_grouped_matmul_nn(Queue, Tensor x_RK, Tensor y_RN, Tensor w_LNK, Tensor begin_L1) {
  grouped_by_rows(num_threads_, scratch_, Operands(y_RN, x_RK, w_LNK), begin_L1,
                  [](const Operands& part) { return part.nn(false); });
}

void CpuOps::do_grouped_matmul_nn_add(Queue, Tensor x_RK, Tensor y_RN, Tensor w_LNK,
                                      Tensor begin_L1) {
  grouped_by_rows(num_threads_, scratch_, Operands(y_RN, x_RK, w_LNK), begin_L1,
                  [](const Operands& part) { return part.nn(true); });
}

void CpuOps::do_grouped_matmul_tn_add(Queue, Tensor w_LNK, Tensor y_RN, Tensor x_RK,
                                      Tensor begin_L1) {
  grouped_tn_add(num_threads_, scratch_, Operands(y_RN, x_RK, w_LNK), begin_L1);
}

}  // namespace switchyard
