// Twins of the matrix instructions that backend/cuda/device.cuh wraps: PTX ISA, "Matrix multiply-
// accumulate operation using mma instruction" and "Warp-level matrix load instruction: ldmatrix".
#pragma once

#include <cstdint>

#include "cuda_emulator/place.h"

namespace cuda_emulator {

struct alignas(16) MatrixRow {  // eight elements of 16 bits
  uint64_t words[2];
};

// d += a b in f32, for the whole warp.
void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, const Place& place);
// Lane i brings row i % 8 of matrix i / 8.
void distribute_matrices(uint32_t* r, const MatrixRow& row, bool transpose, const Place& place);
void check_matrix_row(const void* row, const Place& place);

}  // namespace cuda_emulator

namespace switchyard::cuda {

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         CUDA_EMULATOR_CALLER) {
  ::cuda_emulator::mma_m16n8k16(d, a, b, {"mma_m16n8k16", file, line});
}

template <bool kTranspose>
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, CUDA_EMULATOR_CALLER) {
  const ::cuda_emulator::Place place{"ldmatrix_x4", file, line};
  ::cuda_emulator::check_matrix_row(row, place);
  // Read here, where the sanitizers see it.
  const auto mine = *static_cast<const ::cuda_emulator::MatrixRow*>(row);
  ::cuda_emulator::distribute_matrices(r, mine, kTranspose, place);
}

}  // namespace switchyard::cuda
