// The calls of cuBLAS that the project and its tests make, checked as NVIDIA documents them. What a
// combination of types supports is the table of cublasGemmEx, without fp16, integers and complex
// numbers.
#include <cublas_v2.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "cublas/gemm.h"
#include "engine/engine.h"
#include "runtime/lock.h"
#include "runtime/stream.h"

struct cublasContext {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  unsigned math_mode = CUBLAS_DEFAULT_MATH;
};

namespace cuda_emulator {
namespace {

std::set<cublasHandle_t>& handles() {
  static auto& live = *new std::set<cublasHandle_t>;
  return live;
}

bool is_live(cublasHandle_t handle) {
  const Locked locked;
  return handles().count(handle) != 0;
}

// One operand as a call gives it.
struct Operand {
  cublasOperation_t operation;
  cudaDataType type;
  int leading;
};

Matrix matrix_of(const Operand& operand, int rows, int columns) {
  if (operand.operation != CUBLAS_OP_N) std::swap(rows, columns);
  return {operand.type, rows, columns, operand.leading};
}

bool is_transposed(const Operand& operand) { return operand.operation != CUBLAS_OP_N; }

bool is_f64(cublasComputeType_t compute) {
  return compute == CUBLAS_COMPUTE_64F || compute == CUBLAS_COMPUTE_64F_PEDANTIC;
}

bool is_tf32(cublasComputeType_t compute) { return compute == CUBLAS_COMPUTE_32F_FAST_TF32; }

bool is_supported(cudaDataType a, cudaDataType b, cudaDataType c, cublasComputeType_t compute) {
  if (a != b) return false;
  if (is_f64(compute)) return a == CUDA_R_64F && c == CUDA_R_64F;
  if (is_tf32(compute)) return a == CUDA_R_32F && c == CUDA_R_32F;
  if (compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC) return false;
  if (a == CUDA_R_32F) return c == CUDA_R_32F;
  return a == CUDA_R_16BF && (c == CUDA_R_16BF || c == CUDA_R_32F);
}

// The i-th of the scalars that the caller gives, in the type that sums are in.
double scalar(const void* scalars, size_t i, cublasComputeType_t compute) {
  return is_f64(compute) ? static_cast<const double*>(scalars)[i]
                         : static_cast<double>(static_cast<const float*>(scalars)[i]);
}

Gemm describe(const cublasContext& handle, const Operand& a, const Operand& b, const Operand& c,
              int m, int n, int k, cublasComputeType_t compute) {
  Gemm gemm;
  gemm.transpose_a = is_transposed(a);
  gemm.transpose_b = is_transposed(b);
  gemm.m = m;
  gemm.n = n;
  gemm.k = k;
  gemm.a = matrix_of(a, m, k);
  gemm.b = matrix_of(b, k, n);
  gemm.c = matrix_of(c, m, n);
  const unsigned kind = handle.math_mode & 0xF;
  const bool f32 = a.type == CUDA_R_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC;
  gemm.tf32 = f32 && (is_tf32(compute) || kind == CUBLAS_TF32_TENSOR_OP_MATH);
  gemm.reduced = c.type == CUDA_R_16BF && compute != CUBLAS_COMPUTE_32F_PEDANTIC &&
                 kind != CUBLAS_PEDANTIC_MATH &&
                 (handle.math_mode & CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION) == 0;
  return gemm;
}

cublasStatus_t check(const Gemm& gemm, cublasComputeType_t compute) {
  if (gemm.m < 0 || gemm.n < 0 || gemm.k < 0) return CUBLAS_STATUS_INVALID_VALUE;
  for (const Matrix* matrix : {&gemm.a, &gemm.b, &gemm.c})
    if (matrix->leading < std::max(1, matrix->rows)) return CUBLAS_STATUS_INVALID_VALUE;
  if (!is_supported(gemm.a.type, gemm.b.type, gemm.c.type, compute))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  return CUBLAS_STATUS_SUCCESS;
}

void need_matrix(const void* memory, const Matrix& matrix, const char* what) {
  if (extent(matrix) == 0) return;
  if (reinterpret_cast<uintptr_t>(memory) % static_cast<uintptr_t>(bytes_of(matrix.type)) != 0)
    fail("%s: %p is not aligned to its elements", what, memory);
  need_device(memory, extent(matrix), what);
}

void need_matrices(const Gemm& gemm, const void* a, const void* b, const void* c) {
  if (gemm.k > 0) need_matrix(a, gemm.a, "cuBLAS, A");
  if (gemm.k > 0) need_matrix(b, gemm.b, "cuBLAS, B");
  need_matrix(c, gemm.c, "cuBLAS, C");
}

void need_workspace(const cublasContext& handle, const char* function) {
  if (handle.workspace == nullptr)
    fail(
        "%s without cublasSetWorkspace (after cublasSetStream, which takes the workspace away): "
        "cuBLAS would allocate one",
        function);
}

// Two streams that share a workspace race for it.
void use_workspace(void* workspace, size_t bytes) {
  const size_t used = std::min<size_t>(bytes, 64);
  note_write(workspace, used);
  const Unseen unseen;
  std::memset(workspace, 0xFF, used);
}

cublasStatus_t status_of(cudaError_t status) {
  return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

// The work of a call: all its products. `each` calls multiply().
template <typename Each>
cublasStatus_t put(const cublasContext& handle, const char* function, uint64_t flops, Each each) {
  return status_of(enqueue(
      handle.stream, {.what = function,
                      .work =
                          [each, workspace = handle.workspace, bytes = handle.workspace_bytes] {
                            use_workspace(workspace, bytes);
                            each();
                            return true;
                          },
                      .cost = {Cost::Kind::kBlas, flops}}));
}

const void* at(const void* memory, int64_t elements, cudaDataType type) {
  return static_cast<const char*>(memory) + elements * bytes_of(type);
}

struct Strides {
  int64_t a, b, c;
};

cublasStatus_t strided_products(const cublasContext& handle, const char* function, Gemm gemm,
                                const void* a, const void* b, void* c, const Strides& strides,
                                int batch) {
  if (gemm.m == 0 || gemm.n == 0 || batch == 0) return CUBLAS_STATUS_SUCCESS;
  need_workspace(handle, function);
  for (const int i : {0, batch - 1})
    need_matrices(gemm, at(a, i * strides.a, gemm.a.type), at(b, i * strides.b, gemm.b.type),
                  at(c, i * strides.c, gemm.c.type));
  return put(handle, function, gemm.flops() * static_cast<uint64_t>(batch), [=] {
    for (int i = 0; i < batch; ++i)
      multiply(gemm, at(a, i * strides.a, gemm.a.type), at(b, i * strides.b, gemm.b.type),
               const_cast<void*>(at(c, i * strides.c, gemm.c.type)));
  });
}

struct Group {
  Gemm gemm;
  int count;
};

// "If k times the size of an element is a multiple of 16 (of 4) bytes, so must the addresses be."
void check_alignment(const Gemm& gemm, const void* a, const void* b, const void* c) {
  if (gemm.a.type == CUDA_R_32F && !gemm.tf32) return;
  const int64_t row = gemm.k * bytes_of(gemm.a.type);
  const uintptr_t unit = row % 16 == 0 ? 16 : row % 4 == 0 ? 4 : 1;
  for (const void* p : {a, b, c})
    if (reinterpret_cast<uintptr_t>(p) % unit != 0)
      fail("cublasGemmGroupedBatchedEx: %p is not aligned to %zu bytes", p,
           static_cast<size_t>(unit));
}

// The arrays of pointers lie on the device: they are read when the work runs.
void grouped_products(const std::vector<Group>& groups, const void* const* a, const void* const* b,
                      void* const* c) {
  size_t i = 0;
  for (const Group& group : groups)
    for (int member = 0; member < group.count; ++member, ++i) {
      for (const void* pointer : {static_cast<const void*>(a + i), static_cast<const void*>(b + i),
                                  static_cast<const void*>(c + i)})
        note_read(pointer, sizeof(void*));
      if (group.gemm.m == 0 || group.gemm.n == 0) continue;
      check_alignment(group.gemm, a[i], b[i], c[i]);
      need_matrices(group.gemm, a[i], b[i], c[i]);
      multiply(group.gemm, a[i], b[i], c[i]);
    }
}

}  // namespace
}  // namespace cuda_emulator

using namespace cuda_emulator;

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  const Locked locked;
  *handle = new cublasContext;
  handles().insert(*handle);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  const Locked locked;
  if (handles().erase(handle) == 0) return CUBLAS_STATUS_NOT_INITIALIZED;
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

// "Resets the workspace to the default pool."
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->stream = stream;
  handle->workspace = nullptr;
  handle->workspace_bytes = 0;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t* stream) {
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  *stream = handle->stream;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t bytes) {
  constexpr uintptr_t kAlignment = 256;
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (reinterpret_cast<uintptr_t>(workspace) % kAlignment != 0) return CUBLAS_STATUS_INVALID_VALUE;
  const Locked locked;
  need_device(workspace, bytes, "cublasSetWorkspace");
  handle->workspace = workspace;
  handle->workspace_bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->math_mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  *mode = static_cast<cublasMath_t>(handle->math_mode);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t operation_a,
                            cublasOperation_t operation_b, int m, int n, int k, const void* alpha,
                            const void* a, cudaDataType type_a, int leading_a, const void* b,
                            cudaDataType type_b, int leading_b, const void* beta, void* c,
                            cudaDataType type_c, int leading_c, cublasComputeType_t compute,
                            cublasGemmAlgo_t) {
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  Gemm gemm = describe(*handle, {operation_a, type_a, leading_a}, {operation_b, type_b, leading_b},
                       {CUBLAS_OP_N, type_c, leading_c}, m, n, k, compute);
  if (const cublasStatus_t status = check(gemm, compute); status != CUBLAS_STATUS_SUCCESS)
    return status;
  gemm.alpha = scalar(alpha, 0, compute);
  gemm.beta = scalar(beta, 0, compute);
  return strided_products(*handle, __func__, gemm, a, b, c, {0, 0, 0}, 1);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t operation_a,
                                          cublasOperation_t operation_b, int m, int n, int k,
                                          const void* alpha, const void* a, cudaDataType type_a,
                                          int leading_a, long long stride_a, const void* b,
                                          cudaDataType type_b, int leading_b, long long stride_b,
                                          const void* beta, void* c, cudaDataType type_c,
                                          int leading_c, long long stride_c, int batch,
                                          cublasComputeType_t compute, cublasGemmAlgo_t) {
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  Gemm gemm = describe(*handle, {operation_a, type_a, leading_a}, {operation_b, type_b, leading_b},
                       {CUBLAS_OP_N, type_c, leading_c}, m, n, k, compute);
  if (batch < 0) return CUBLAS_STATUS_INVALID_VALUE;
  if (const cublasStatus_t status = check(gemm, compute); status != CUBLAS_STATUS_SUCCESS)
    return status;
  gemm.alpha = scalar(alpha, 0, compute);
  gemm.beta = scalar(beta, 0, compute);
  return strided_products(*handle, __func__, gemm, a, b, c, {stride_a, stride_b, stride_c}, batch);
}

// Its table of types has no f32 result of bf16 inputs, and no fast f32.
cublasStatus_t cublasGemmGroupedBatchedEx(
    cublasHandle_t handle, const cublasOperation_t operation_a[],
    const cublasOperation_t operation_b[], const int m[], const int n[], const int k[],
    const void* alpha, const void* const a[], cudaDataType_t type_a, const int leading_a[],
    const void* const b[], cudaDataType_t type_b, const int leading_b[], const void* beta,
    void* const c[], cudaDataType_t type_c, const int leading_c[], int num_groups,
    const int group_size[], cublasComputeType_t compute) {
  if (!is_live(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (type_c != type_a) return CUBLAS_STATUS_NOT_SUPPORTED;
  std::vector<Group> groups;
  uint64_t flops = 0;
  size_t products = 0;
  for (int i = 0; i < num_groups; ++i) {
    Group& group = groups.emplace_back();
    group.gemm = describe(*handle, {operation_a[i], type_a, leading_a[i]},
                          {operation_b[i], type_b, leading_b[i]},
                          {CUBLAS_OP_N, type_c, leading_c[i]}, m[i], n[i], k[i], compute);
    group.count = group_size[i];
    if (const cublasStatus_t status = check(group.gemm, compute); status != CUBLAS_STATUS_SUCCESS)
      return status;
    group.gemm.alpha = scalar(alpha, static_cast<size_t>(i), compute);
    group.gemm.beta = scalar(beta, static_cast<size_t>(i), compute);
    flops += group.gemm.flops() * static_cast<uint64_t>(group.count);
    products += static_cast<size_t>(group.count);
  }
  if (products == 0) return CUBLAS_STATUS_SUCCESS;
  {
    const Locked locked;
    need_workspace(*handle, __func__);
    need_device(a, products * sizeof(void*), "cublasGemmGroupedBatchedEx, pointers to A");
    need_device(b, products * sizeof(void*), "cublasGemmGroupedBatchedEx, pointers to B");
    need_device(c, products * sizeof(void*), "cublasGemmGroupedBatchedEx, pointers to C");
  }
  return put(*handle, __func__, flops, [=] { grouped_products(groups, a, b, c); });
}

const char* cublasGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "the operation completed successfully";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "the library was not initialized";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "the functionality requested is not supported";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "the GPU program failed to execute";
    default:
      return "an internal operation failed";
  }
}

const char* cublasGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
  }
}
