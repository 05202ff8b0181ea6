// CUDA C++ for a host compiler: what .cu files need beyond NVIDIA's own headers, which already
// leave out __global__ and __device__ there. Included by backend/cuda/device.cuh; see there for the
// two macros.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "cuda_emulator/arithmetic.h"
#include "cuda_emulator/async_copy.h"
#include "cuda_emulator/atomics.h"
#include "cuda_emulator/block.h"
#include "cuda_emulator/launch.h"
#include "cuda_emulator/tensor_core.h"
#include "cuda_emulator/warp.h"

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__  // would make one array per thread
#define __shared__ shared_memory_is_declared_by_SHARED_ARRAY_or_DYNAMIC_SHARED

// Of the thread in execution. (Not macros, which would replace members of cudaLaunchConfig_t.)
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

#define SHARED_ARRAY(T, name, count)                                                              \
  static constinit ::cuda_emulator::SharedArray name##_in_shared_memory{#name, sizeof(T[count])}; \
  T(&name)                                                                                        \
  [count] = *static_cast<T(*)[count]>(::cuda_emulator::shared_memory(name##_in_shared_memory))
#define DYNAMIC_SHARED(name) unsigned char* const name = ::cuda_emulator::dynamic_shared_memory()
