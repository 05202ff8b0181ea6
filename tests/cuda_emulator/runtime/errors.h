// The error that cudaGetLastError() of this thread tells of.
#pragma once

#include <cuda_runtime_api.h>

namespace cuda_emulator {

// Notes `status` unless it is success; returns it.
cudaError_t noted(cudaError_t status);

}  // namespace cuda_emulator
