// C = alpha op(A) op(B) + beta C as cuBLAS does it: column-major, products and sums in f32 (f64 for
// f64), rounded once to the type of C. Sums go by ascending index in pieces of 256, always, so that
// the same inputs give the same bits.
#pragma once

#include <cublas_v2.h>

#include <cstddef>
#include <cstdint>

namespace cuda_emulator {

struct Matrix {
  cudaDataType type = CUDA_R_32F;
  int rows = 0, columns = 0;  // as it lies in memory
  int64_t leading = 0;
};

struct Gemm {
  bool transpose_a = false, transpose_b = false;
  int64_t m = 0, n = 0, k = 0;
  Matrix a, b, c;
  double alpha = 1, beta = 0;
  bool tf32 = false;     // f32 inputs are rounded to tf32
  bool reduced = false;  // pieces of sums are rounded to bf16, as split sums of cuBLAS may be

  uint64_t flops() const { return static_cast<uint64_t>(2 * m * n * k); }
};

int bytes_of(cudaDataType type);
// Bytes from the first to the last element.
size_t extent(const Matrix& matrix);

// Within an operation of a stream.
void multiply(const Gemm& gemm, const void* a, const void* b, void* c);

}  // namespace cuda_emulator
