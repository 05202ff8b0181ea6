// gemm: BLAS's matrix product for both real types, on one thread (OpenBLAS's own pool is off; our
// threads call it side by side on different blocks).
#pragma once

#include <cblas.h>

#include <cstdint>

namespace switchyard {

enum class Transpose { kNo, kYes };

// C (m, n) = alpha * op(A) (m, k) * op(B) (k, n) + beta * C; row-major with leading dimensions.
inline void gemm(Transpose a_trans, Transpose b_trans, int64_t m, int64_t n, int64_t k, float alpha,
                 const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
                 int64_t ldc) {
  cblas_sgemm(CblasRowMajor, a_trans == Transpose::kYes ? CblasTrans : CblasNoTrans,
              b_trans == Transpose::kYes ? CblasTrans : CblasNoTrans, static_cast<int>(m),
              static_cast<int>(n), static_cast<int>(k), alpha, a, static_cast<int>(lda), b,
              static_cast<int>(ldb), beta, c, static_cast<int>(ldc));
}

inline void gemm(Transpose a_trans, Transpose b_trans, int64_t m, int64_t n, int64_t k,
                 double alpha, const double* a, int64_t lda, const double* b, int64_t ldb,
                 double beta, double* c, int64_t ldc) {
  cblas_dgemm(CblasRowMajor, a_trans == Transpose::kYes ? CblasTrans : CblasNoTrans,
              b_trans == Transpose::kYes ? CblasTrans : CblasNoTrans, static_cast<int>(m),
              static_cast<int>(n), static_cast<int>(k), alpha, a, static_cast<int>(lda), b,
              static_cast<int>(ldb), beta, c, static_cast<int>(ldc));
}

}  // namespace switchyard
