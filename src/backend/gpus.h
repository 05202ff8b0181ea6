// The GPUs that this process can compute on. A build without CUDA has none (cuda/no_cuda.cpp).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "backend/backend.h"

namespace switchyard {

bool is_built_with_cuda();

struct VisibleGpus {
  int count = 0;
  std::string why_none = {};  // for people
};
VisibleGpus visible_gpus();

// The same in every process of the machine, and no other GPU's: "GPU-1b2c...".
std::string gpu_uuid(int ordinal);

// A CudaBackend (cuda/cuda_backend.h). `advice` ends its message when memory runs out. Error where
// CUDA is not built.
std::unique_ptr<Backend> make_cuda_backend(int ordinal, std::function<std::string()> advice);

}  // namespace switchyard
