#include "backend/cuda/cuda_check.h"

#include "core/error.h"

namespace switchyard::cuda {
namespace {

const char* hint(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "; out of device memory: `switchyard plan` tells what a rank needs";
    case cudaErrorInsufficientDriver:
      return "; the driver is older than the CUDA toolkit of this build: update it";
    case cudaErrorNoDevice:
      return "; no GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES, or set \"device\": "
             "\"cpu\"";
    case cudaErrorNoKernelImageForDevice:
      return "; this build has no code for this GPU: build with -DCMAKE_CUDA_ARCHITECTURES";
    default:
      return "";
  }
}

// The device of this thread, for messages; -1 if CUDA does not say.
int device_at_hand() {
  int device = -1;
  return cudaGetDevice(&device) == cudaSuccess ? device : -1;
}

}  // namespace

void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  fail(ExitCode::kInternal, file, line,
       fmt::format("CUDA device {}: {}: {} ({}){}", device_at_hand(), call,
                   cudaGetErrorString(status), cudaGetErrorName(status), hint(status)));
}

void check(cublasStatus_t status, const char* call, const char* file, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail(
      ExitCode::kInternal, file, line,
      fmt::format("CUDA device {}: {}: {}", device_at_hand(), call, cublasGetStatusString(status)));
}

}  // namespace switchyard::cuda
