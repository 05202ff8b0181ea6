// Launching kernels: launch(stream, kernel, {blocks, threads, shared bytes}, arguments...).
#pragma once

#include <algorithm>
#include <utility>

#include "backend/cuda/cuda_check.h"
#include "backend/cuda/device.cuh"
#include "core/tensor.h"

namespace switchyard::cuda {

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;  // dynamic
};

// Zero blocks (no rows) launch nothing.
template <typename... Parameters, typename... Arguments>
void launch(cudaStream_t stream, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments&&... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  // A kernel has 48 KiB by itself, its static arrays included (ours take less than 16 KiB of them).
  constexpr size_t kSharedOfEveryKernel = 32 * 1024;
  if (shape.shared_bytes > kSharedOfEveryKernel)
    CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shape.shared_bytes)));
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

// Blocks that cover `n` items, `per_block` each.
inline unsigned blocks_for(int64_t n, int64_t per_block) {
  return static_cast<unsigned>((n + per_block - 1) / per_block);
}

// Blocks for kernels that stride over their items: enough to fill a GPU, no more than there is
// work for.
inline unsigned striding_blocks(int64_t n, int64_t per_block) {
  constexpr int64_t kEnough = 2048;
  return static_cast<unsigned>(std::min(kEnough, (n + per_block - 1) / per_block));
}

// Of an argument that may be none.
template <typename T>
T* data_or_null(Tensor tensor) {
  return tensor.is_none() ? nullptr : tensor.data<T>();
}

// Warps of a block of which each needs `bytes` of shared memory: as many as 48 KiB hold.
inline int warps_with_shared(int64_t bytes, int64_t most) {
  constexpr int64_t kShared = 48 * 1024;
  return static_cast<int>(std::clamp<int64_t>(kShared / std::max<int64_t>(1, bytes), 1, most));
}

}  // namespace switchyard::cuda
