#include "backend/gpus.h"

#include <utility>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/cuda_check.h"

namespace switchyard {

bool is_built_with_cuda() { return true; }

VisibleGpus visible_gpus() {
  VisibleGpus visible;
  const cudaError_t status = cudaGetDeviceCount(&visible.count);
  if (status == cudaSuccess && visible.count > 0) return visible;
  cudaGetLastError();  // none is an answer, not a failure
  return {.why_none = status == cudaSuccess ? "CUDA_VISIBLE_DEVICES hides all"
                                            : cudaGetErrorString(status)};
}

std::string gpu_uuid(int ordinal) {
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, ordinal));
  std::string uuid = "GPU-";
  for (const char byte : properties.uuid.bytes)
    uuid += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return uuid;
}

std::unique_ptr<Backend> make_cuda_backend(int ordinal, std::function<std::string()> advice) {
  return std::make_unique<CudaBackend>(
      CudaBackend::Options{.ordinal = ordinal, .advice = std::move(advice)});
}

}  // namespace switchyard
