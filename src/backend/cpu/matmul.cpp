// Matrix products. Threads cut the output into tiles; each tile is one call of a one-thread BLAS.
// Which tile a thread owns depends on the sizes alone. Every element is summed by one BLAS call.
#include <cblas.h>

#include <algorithm>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/dispatch.h"
#include "backend/cpu/parallel.h"

namespace switchyard {
namespace {

enum class Transposed { kNo, kYes };

// A row-major matrix as an operand: element (i, j), before transposition, is data[i * stride + j].
template <typename T>
struct Operand {
  const T* data;
  int64_t stride;
  Transposed transposed = Transposed::kNo;

  // The operand from row `i` on, or from column `j` on, after transposition.
  Operand from_row(int64_t i) const { return from(transposed == Transposed::kNo, i); }
  Operand from_column(int64_t j) const { return from(transposed == Transposed::kYes, j); }

 private:
  Operand from(bool along_rows, int64_t i) const {
    return {data + (along_rows ? i * stride : i), stride, transposed};
  }
};

// c (m, n) = a (m, k) b (k, n) + beta c; rows of c are n_total apart.
template <typename T>
struct Product {
  T* c;
  int64_t c_stride;
  Operand<T> a, b;
  int64_t m, n, k;
  T beta;

  // The same product for rows [i0, i1) and columns [j0, j1) of c.
  Product tile(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
    return {c + i0 * c_stride + j0,
            c_stride,
            a.from_row(i0),
            b.from_column(j0),
            i1 - i0,
            j1 - j0,
            k,
            beta};
  }
};

// A product over no terms. Its operands have leading dimension 0, which the BLAS standard forbids.
template <typename T>
void empty_sum(const Product<T>& p) {
  if (p.beta != T{0}) return;  // adds nothing
  for (int64_t i = 0; i < p.m; ++i) std::fill_n(p.c + i * p.c_stride, p.n, T{0});
}

CBLAS_TRANSPOSE blas_transpose(Transposed transposed) {
  return transposed == Transposed::kYes ? CblasTrans : CblasNoTrans;
}

void gemm(const Product<float>& p) {
  if (p.m <= 0 || p.n <= 0) return;
  if (p.k == 0) return empty_sum(p);
  cblas_sgemm(CblasRowMajor, blas_transpose(p.a.transposed), blas_transpose(p.b.transposed),
              static_cast<int>(p.m), static_cast<int>(p.n), static_cast<int>(p.k), 1.0f, p.a.data,
              static_cast<int>(p.a.stride), p.b.data, static_cast<int>(p.b.stride), p.beta, p.c,
              static_cast<int>(p.c_stride));
}

void gemm(const Product<double>& p) {
  if (p.m <= 0 || p.n <= 0) return;
  if (p.k == 0) return empty_sum(p);
  cblas_dgemm(CblasRowMajor, blas_transpose(p.a.transposed), blas_transpose(p.b.transposed),
              static_cast<int>(p.m), static_cast<int>(p.n), static_cast<int>(p.k), 1.0, p.a.data,
              static_cast<int>(p.a.stride), p.b.data, static_cast<int>(p.b.stride), p.beta, p.c,
              static_cast<int>(p.c_stride));
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

template <typename T>
void parallel_gemm(int num_threads, const Product<T>& p) {
  const TileGrid grid = choose_grid(num_threads, p.m, p.n, p.k);
  parallel_tasks(num_threads, grid.rows * grid.columns, [&](int64_t task) {
    const int64_t i = task / grid.columns, j = task % grid.columns;
    gemm(p.tile(cut(p.m, i, grid.rows), cut(p.m, i + 1, grid.rows), cut(p.n, j, grid.columns),
                cut(p.n, j + 1, grid.columns)));
  });
}

// y (T, N), x (T, K) and the weight w (N, K) of one layer or one expert.
template <typename T>
struct Matrices {
  T* y;
  T* x;
  T* w;
  int64_t rows, N, K;

  Matrices(Tensor y_TN, Tensor x_TK, Tensor w_NK)
      : y(y_TN.data<T>()),
        x(x_TK.data<T>()),
        w(w_NK.data<T>()),
        rows(y_TN.dim(0)),
        N(y_TN.dim(1)),
        K(x_TK.dim(1)) {}

  Matrices of_expert(int64_t e, int64_t begin, int64_t end) const {
    Matrices one = *this;
    one.y += begin * N;
    one.x += begin * K;
    one.w += e * N * K;
    one.rows = end - begin;
    return one;
  }

  Product<T> nt() const { return {y, N, {x, K}, {w, K, Transposed::kYes}, rows, N, K, T{0}}; }
  Product<T> nn(T beta) const { return {x, K, {y, N}, {w, K}, rows, K, N, beta}; }
  Product<T> tn_add() const { return {w, K, {y, N, Transposed::kYes}, {x, K}, N, K, rows, T{1}}; }
};

// The rows of all experts are cut evenly, wherever an expert begins: a thread's rows of one expert
// are one BLAS call. With few rows the columns are cut too. make_product(matrices of some rows).
template <typename T, typename MakeProduct>
void grouped_by_rows(int num_threads, const Matrices<T>& all, Tensor begin_L1,
                     const MakeProduct& make_product) {
  const int32_t* begin = begin_L1.data<int32_t>();
  const int64_t num_experts = begin_L1.numel() - 1;
  const Product<T> whole = make_product(all);
  const TileGrid grid = choose_grid(num_threads, whole.m, whole.n, whole.k);
  parallel_tasks(num_threads, grid.rows * grid.columns, [&](int64_t task) {
    const int64_t i = task / grid.columns, j = task % grid.columns;
    const int64_t row0 = cut(all.rows, i, grid.rows), row1 = cut(all.rows, i + 1, grid.rows);
    for (int64_t e = 0; e < num_experts; ++e) {
      const int64_t first = std::max<int64_t>(row0, begin[e]);
      const int64_t last = std::min<int64_t>(row1, begin[e + 1]);
      if (first >= last) continue;
      const Product<T> product = make_product(all.of_expert(e, first, last));
      gemm(product.tile(0, product.m, cut(product.n, j, grid.columns),
                        cut(product.n, j + 1, grid.columns)));
    }
  });
}

// Weight gradients: row n of expert e costs as many multiply-adds (times K) as e has rows. The rows
// of all experts' gradients stand in one line, cut where the cost is even.
template <typename T>
void grouped_tn_add(int num_threads, const Matrices<T>& all, Tensor begin_L1) {
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
      const Product<T> product = all.of_expert(e, begin[e], begin[e + 1]).tn_add();
      gemm(product.tile(row_at(cost0), row_at(cost1), 0, product.n));
    }
  });
}

}  // namespace

void CpuOps::do_matmul_nt(Queue, Tensor y_TN, Tensor x_TK, Tensor w_NK) {
  with_real(w_NK.dtype(), [&](auto real) {
    parallel_gemm(num_threads_, Matrices<decltype(real)>(y_TN, x_TK, w_NK).nt());
  });
}

void CpuOps::do_matmul_nn(Queue, Tensor x_TK, Tensor y_TN, Tensor w_NK) {
  with_real(w_NK.dtype(), [&](auto real) {
    parallel_gemm(num_threads_, Matrices<decltype(real)>(y_TN, x_TK, w_NK).nn(0));
  });
}

void CpuOps::do_matmul_nn_add(Queue, Tensor x_TK, Tensor y_TN, Tensor w_NK) {
  with_real(w_NK.dtype(), [&](auto real) {
    parallel_gemm(num_threads_, Matrices<decltype(real)>(y_TN, x_TK, w_NK).nn(1));
  });
}

void CpuOps::do_matmul_tn_add(Queue, Tensor w_NK, Tensor y_TN, Tensor x_TK) {
  with_real(w_NK.dtype(), [&](auto real) {
    parallel_gemm(num_threads_, Matrices<decltype(real)>(y_TN, x_TK, w_NK).tn_add());
  });
}

void CpuOps::do_grouped_matmul_nt(Queue, Tensor y_RN, Tensor x_RK, Tensor w_LNK, Tensor begin_L1) {
  with_real(w_LNK.dtype(), [&](auto real) {
    using T = decltype(real);
    grouped_by_rows(num_threads_, Matrices<T>(y_RN, x_RK, w_LNK), begin_L1,
                    [](const Matrices<T>& part) { return part.nt(); });
  });
}

void CpuOps::do_grouped_matmul_nn(Queue, Tensor x_RK, Tensor y_RN, Tensor w_LNK, Tensor begin_L1) {
  with_real(w_LNK.dtype(), [&](auto real) {
    using T = decltype(real);
    grouped_by_rows(num_threads_, Matrices<T>(y_RN, x_RK, w_LNK), begin_L1,
                    [](const Matrices<T>& part) { return part.nn(0); });
  });
}

void CpuOps::do_grouped_matmul_nn_add(Queue, Tensor x_RK, Tensor y_RN, Tensor w_LNK,
                                      Tensor begin_L1) {
  with_real(w_LNK.dtype(), [&](auto real) {
    using T = decltype(real);
    grouped_by_rows(num_threads_, Matrices<T>(y_RN, x_RK, w_LNK), begin_L1,
                    [](const Matrices<T>& part) { return part.nn(1); });
  });
}

void CpuOps::do_grouped_matmul_tn_add(Queue, Tensor w_LNK, Tensor y_RN, Tensor x_RK,
                                      Tensor begin_L1) {
  with_real(w_LNK.dtype(), [&](auto real) {
    grouped_tn_add(num_threads_, Matrices<decltype(real)>(y_RN, x_RK, w_LNK), begin_L1);
  });
}

}  // namespace switchyard
