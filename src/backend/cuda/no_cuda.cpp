// What stands in for the CUDA backend in a build without it.
#include "backend/gpus.h"
#include "core/error.h"

namespace switchyard {

bool is_built_with_cuda() { return false; }

VisibleGpus visible_gpus() { return {.why_none = "this build has no CUDA backend"}; }

std::string gpu_uuid(int) { SY_CHECK(false, "this build has no CUDA backend"); }

std::unique_ptr<Backend> make_cuda_backend(int, std::function<std::string()>) {
  SY_CHECK(false, "this build has no CUDA backend");
}

}  // namespace switchyard
