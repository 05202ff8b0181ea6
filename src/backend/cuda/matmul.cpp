// Dense matrix products through cuBLAS, which takes row-major matrices for transposed ones: it is
// asked for c^T = b^T a^T.
//
// Sums are in f32 (f64 for f64). Handles are in a math mode in which f32 is f32, never TF32, and
// partial sums are not rounded to bf16 (cuda_device.cpp); each handle has one stream and one
// workspace: the same product gives the same bits.
//
// cuBLAS multiplies operands of one dtype. When one is f32 and one bf16 (the backward of the
// logits), the f32 one is cut into three bf16 matrices that add up to it: three products on the
// tensor cores, as exact as one in f32 and, counted by peak rates, five times as fast. A bf16
// result of f32 sums that cuBLAS does not round itself is summed in scratch and rounded once.
#include <algorithm>

#include "backend/cuda/cuda_check.h"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/split_f32.h"
#include "core/math.h"

namespace switchyard {
namespace {

// An f32 operand of more elements than this is cut into three in slices of its rows, one after the
// other: the scratch for them is then 3/8 of its size.
constexpr int64_t kElementsInOneSlice = int64_t{1} << 20;
constexpr int64_t kSlices = 4;

// A row-major matrix in memory; the product reads its transpose if `transposed`.
struct Matrix {
  std::byte* data;
  DType dtype;
  int64_t rows, columns;
  int64_t stride;  // elements from row to row
  bool transposed;

  explicit Matrix(Tensor tensor, bool is_transposed = false)
      : data(static_cast<std::byte*>(tensor.raw())),
        dtype(tensor.dtype()),
        rows(tensor.dim(0)),
        columns(tensor.dim(1)),
        stride(tensor.dim(1)),
        transposed(is_transposed) {}

  Tensor tensor() const { return Tensor(data, dtype, {rows, columns}); }
  // Another matrix of the same shape.
  Matrix held_in(void* memory, DType other) const {
    Matrix matrix = *this;
    matrix.data = static_cast<std::byte*>(memory);
    matrix.dtype = other;
    matrix.stride = columns;
    return matrix;
  }
  Matrix row_slice(int64_t begin, int64_t count) const {
    Matrix slice = *this;
    slice.data += begin * stride * static_cast<int64_t>(size_in_bytes(dtype));
    slice.rows = count;
    return slice;
  }
  Matrix column_slice(int64_t begin, int64_t count) const {
    Matrix slice = *this;
    slice.data += begin * static_cast<int64_t>(size_in_bytes(dtype));
    slice.columns = count;
    return slice;
  }
};

// c = a b, plus what c holds if `adds`.
struct Product {
  Matrix c, a, b;
  bool adds;

  int64_t terms() const { return a.transposed ? a.rows : a.columns; }
  bool is_mixed() const { return a.dtype != b.dtype; }
};

int64_t aligned_bytes(int64_t elements, DType dtype) {
  return round_up(elements * static_cast<int64_t>(size_in_bytes(dtype)), 256);
}

cudaDataType_t data_type(DType dtype) {
  if (dtype == DType::kF64) return CUDA_R_64F;
  return dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
}

// Operands of one dtype; c is of that dtype, or f32.
void gemm(cublasHandle_t handle, const Product& p) {
  const bool is_f64 = p.c.dtype == DType::kF64;
  const double one_f64 = 1, beta_f64 = p.adds ? 1 : 0;
  const float one_f32 = 1, beta_f32 = p.adds ? 1 : 0;
  const void* const one = is_f64 ? static_cast<const void*>(&one_f64) : &one_f32;
  const void* const beta = is_f64 ? static_cast<const void*>(&beta_f64) : &beta_f32;
  const auto size = [](int64_t n) { return static_cast<int>(n); };
  const auto operation = [](const Matrix& x) { return x.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  CUBLAS_CHECK(cublasGemmEx(handle, operation(p.b), operation(p.a), size(p.c.columns),
                            size(p.c.rows), size(p.terms()), one, p.b.data, data_type(p.b.dtype),
                            size(p.b.stride), p.a.data, data_type(p.a.dtype), size(p.a.stride),
                            beta, p.c.data, data_type(p.c.dtype), size(p.c.stride),
                            is_f64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

// The part of a product that rows [begin, begin + count) of its operand a (else b) take part in:
// some of the rows or columns of c, or some of the terms, added to those before.
Product operand_rows(const Product& p, bool of_a, int64_t begin, int64_t count) {
  Product part = p;
  Matrix& mine = of_a ? part.a : part.b;
  Matrix& other = of_a ? part.b : part.a;
  const bool rows_are_terms = of_a == mine.transposed;
  mine = mine.row_slice(begin, count);
  if (rows_are_terms) {
    other =
        of_a == other.transposed ? other.column_slice(begin, count) : other.row_slice(begin, count);
    part.adds = p.adds || begin > 0;
  } else {
    part.c = of_a ? part.c.row_slice(begin, count) : part.c.column_slice(begin, count);
  }
  return part;
}

int64_t slice_rows(const Matrix& wide) {
  return wide.rows * wide.columns <= kElementsInOneSlice ? wide.rows : div_up(wide.rows, kSlices);
}

// One operand f32, the other bf16, c f32.
void mixed_gemm(CudaDevice& device, Queue q, const Product& p, std::byte* memory) {
  const bool of_a = p.a.dtype == DType::kF32;
  const Matrix& wide = of_a ? p.a : p.b;
  const int64_t at_once = slice_rows(wide);
  cuda::SplitF32 parts;
  for (int i = 0; i < 3; ++i)
    parts.part[i] = reinterpret_cast<BFloat16*>(
        memory + i * aligned_bytes(at_once * wide.columns, DType::kBF16));
  for (int64_t begin = 0; begin < wide.rows; begin += at_once) {
    const int64_t count = std::min(at_once, wide.rows - begin);
    Product product = operand_rows(p, of_a, begin, count);
    Matrix& operand = of_a ? product.a : product.b;
    cuda::split_f32(device.stream(q), parts, reinterpret_cast<const float*>(operand.data),
                    count * wide.columns);
    for (BFloat16* part : parts.part) {
      operand = operand.held_in(part, DType::kBF16);
      gemm(device.blas(q), product);
      product.adds = true;
    }
  }
}

void multiply(Ops& ops, CudaDevice& device, Queue q, const Product& p) {
  if (p.c.rows == 0 || p.c.columns == 0) return;
  if (p.terms() == 0) {
    const auto bytes = static_cast<size_t>(p.c.tensor().bytes());
    if (!p.adds) CUDA_CHECK(cudaMemsetAsync(p.c.data, 0, bytes, device.stream(q)));
    return;
  }
  const bool sums_in_scratch =
      p.c.dtype == DType::kBF16 && (p.is_mixed() || p.a.dtype != DType::kBF16);
  const Matrix& wide = p.a.dtype == DType::kF32 ? p.a : p.b;
  const int64_t sum_bytes = sums_in_scratch ? aligned_bytes(p.c.tensor().numel(), DType::kF32) : 0;
  const int64_t split_bytes =
      p.is_mixed() ? 3 * aligned_bytes(slice_rows(wide) * wide.columns, DType::kBF16) : 0;
  std::byte* const memory = device.scratch(q, sum_bytes + split_bytes);
  Product sum = p;
  if (sums_in_scratch) sum.c = p.c.held_in(memory, DType::kF32);
  if (sums_in_scratch && p.adds) ops.convert(q, sum.c.tensor(), p.c.tensor());
  p.is_mixed() ? mixed_gemm(device, q, sum, memory + sum_bytes) : gemm(device.blas(q), sum);
  if (sums_in_scratch) ops.convert(q, p.c.tensor(), sum.c.tensor());
}

}  // namespace

void CudaOps::do_matmul_nt(Queue q, Tensor y_TN, Tensor x_TK, Tensor w_NK) {
  multiply(*this, device_, q, {Matrix(y_TN), Matrix(x_TK), Matrix(w_NK, true), false});
}

void CudaOps::do_matmul_nn(Queue q, Tensor x_TK, Tensor y_TN, Tensor w_NK) {
  multiply(*this, device_, q, {Matrix(x_TK), Matrix(y_TN), Matrix(w_NK), false});
}

void CudaOps::do_matmul_nn_add(Queue q, Tensor x_TK, Tensor y_TN, Tensor w_NK) {
  multiply(*this, device_, q, {Matrix(x_TK), Matrix(y_TN), Matrix(w_NK), true});
}

void CudaOps::do_matmul_tn_add(Queue q, Tensor w_NK, Tensor y_TN, Tensor x_TK) {
  multiply(*this, device_, q, {Matrix(w_NK), Matrix(y_TN, true), Matrix(x_TK), true});
}

}  // namespace switchyard
