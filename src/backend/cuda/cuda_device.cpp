#include "backend/cuda/cuda_device.h"

#include <algorithm>
#include <exception>

#include "backend/cuda/cuda_check.h"
#include "core/math.h"

namespace switchyard {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what cuBLAS asks for on sm_90

int attribute(cudaDeviceAttr name, int ordinal) {
  int value = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&value, name, ordinal));
  return value;
}

}  // namespace

CudaDevice::CudaDevice(int ordinal) : ordinal_(ordinal) {
  CUDA_CHECK(cudaSetDevice(ordinal));
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, ordinal));
  name_ = properties.name;
  compute_capability_ = 10 * attribute(cudaDevAttrComputeCapabilityMajor, ordinal) +
                        attribute(cudaDevAttrComputeCapabilityMinor, ordinal);
  num_multiprocessors_ = attribute(cudaDevAttrMultiProcessorCount, ordinal);
  clock_hz_ = 1e3 * attribute(cudaDevAttrClockRate, ordinal);
  blas(add_queue());
}

// Destructors never throw: what fails here, fails at the end of a process. All of this waits for
// the device, which after an error may never be done.
CudaDevice::~CudaDevice() {
  if (std::uncaught_exceptions() > 0) return;
  for (const Lane& lane : lanes_) {
    if (lane.blas != nullptr) cublasDestroy(lane.blas);
    cudaFree(lane.workspace);
    cudaFree(lane.scratch);
    cudaStreamDestroy(lane.stream);
  }
}

Queue CudaDevice::add_queue() {
  CUDA_CHECK(cudaStreamCreateWithFlags(&lanes_.emplace_back().stream, cudaStreamNonBlocking));
  return Queue{num_queues() - 1};
}

cublasHandle_t CudaDevice::blas(Queue queue) {
  Lane& mine = lane(queue);
  if (mine.blas != nullptr) return mine.blas;
  CUDA_CHECK(cudaMalloc(&mine.workspace, kWorkspaceBytes));
  CUBLAS_CHECK(cublasCreate(&mine.blas));
  // f32 is f32, not TF32; sums that are split among blocks meet in f32.
  CUBLAS_CHECK(cublasSetMathMode(
      mine.blas, static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH |
                                           CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));
  CUBLAS_CHECK(cublasSetStream(mine.blas, mine.stream));
  CUBLAS_CHECK(cublasSetWorkspace(mine.blas, mine.workspace, kWorkspaceBytes));
  return mine.blas;
}

std::byte* CudaDevice::scratch(Queue queue, int64_t bytes) {
  Lane& mine = lane(queue);
  if (bytes <= mine.scratch_bytes) return mine.scratch;
  // In the order of the stream: what it was asked before still uses the old memory.
  if (mine.scratch != nullptr) CUDA_CHECK(cudaFreeAsync(mine.scratch, mine.stream));
  const int64_t larger = round_up(std::max(bytes, 2 * mine.scratch_bytes), 256);
  mine.scratch = nullptr;
  mine.scratch_bytes = 0;
  CUDA_CHECK(cudaMallocAsync(reinterpret_cast<void**>(&mine.scratch), static_cast<size_t>(larger),
                             mine.stream));
  mine.scratch_bytes = larger;
  ++scratch_allocations_;
  return mine.scratch;
}

}  // namespace switchyard
