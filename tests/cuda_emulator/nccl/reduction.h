// The arithmetic of emulated NCCL's reductions.
#pragma once

#include <nccl.h>

#include <cstddef>

namespace cuda_emulator::nccl {

// total = total op values, element by element, rounded to the type.
void reduce_into(void* total, const void* values, size_t count, ncclDataType_t type,
                 ncclRedOp_t op);
void divide(void* total, size_t count, ncclDataType_t type, int by);

}  // namespace cuda_emulator::nccl
