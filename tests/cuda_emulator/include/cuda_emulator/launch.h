// Launching: NVIDIA's own template converts the arguments, after the kernel has been registered
// with its types, which cudaLaunchKernelExC is not told.
#pragma once

#include <cuda_runtime.h>

#include "cuda_emulator/kernel.h"

namespace cuda_emulator {

template <typename... Parameters, typename... Arguments>
cudaError_t launch_kernel_ex(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                             Arguments&&... arguments) {
  register_kernel(KernelOf<Parameters...>::describe(kernel));
  return ::cudaLaunchKernelEx(config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace cuda_emulator

#define cudaLaunchKernelEx ::cuda_emulator::launch_kernel_ex
