// An f32 as the sum of three bf16: 8 of its 24 significant bits each. So a product of an f32 and a
// bf16 matrix becomes three of bf16, as exact (but for bits below 2^-133, which bf16 does not
// have).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"

namespace switchyard::cuda {

struct SplitF32 {
  BFloat16* part[3];  // descending; each as many elements as what is split
};

void split_f32(cudaStream_t stream, const SplitF32& parts, const float* x, int64_t count);

}  // namespace switchyard::cuda
