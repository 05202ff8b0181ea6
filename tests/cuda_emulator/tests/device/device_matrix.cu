#include "backend/cuda/launch.cuh"
#include "cuda_emulator/tests/device/device_kernels.h"

namespace switchyard::test {
namespace {

__global__ void multiply_fragments_kernel(float* d, const uint32_t* a, const uint32_t* b) {
  uint32_t my_a[4], my_b[2];
  float my_d[4];
  for (int i = 0; i < 4; ++i) my_a[i] = a[4 * threadIdx.x + i];
  for (int i = 0; i < 2; ++i) my_b[i] = b[2 * threadIdx.x + i];
  for (int i = 0; i < 4; ++i) my_d[i] = d[4 * threadIdx.x + i];
  cuda::mma_m16n8k16(my_d, my_a, my_b);
  for (int i = 0; i < 4; ++i) d[4 * threadIdx.x + i] = my_d[i];
}

template <bool kTranspose>
__global__ void load_matrices_kernel(uint32_t* out, const uint16_t* matrices) {
  SHARED_ARRAY(uint16_t, rows, 32 * 8);
  for (int i = 0; i < 8; ++i) rows[8 * threadIdx.x + i] = matrices[8 * threadIdx.x + i];
  __syncwarp();
  uint32_t r[4];
  cuda::ldmatrix_x4<kTranspose>(r, &rows[8 * threadIdx.x]);
  for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = r[i];
}

// Row j of thread i is in[j * blockDim.x + i]; two copies in flight, each in its own buffer.
__global__ void copy_through_shared_kernel(uint4* out, const uint4* in, int rows, int valid) {
  DYNAMIC_SHARED(memory);
  auto* buffers = reinterpret_cast<uint4*>(memory);
  const auto buffer = [&](int row) { return buffers + row % 2 * blockDim.x; };
  const auto start = [&](int row) {
    if (row < rows)
      cuda::cp_async_16(buffer(row) + threadIdx.x, in + row * blockDim.x + threadIdx.x,
                        row < valid);
    cuda::cp_async_commit();
  };
  start(0);
  for (int row = 0; row < rows; ++row) {
    start(row + 1);
    cuda::cp_async_wait<1>();
    __syncthreads();
    // What the neighbour has copied.
    const unsigned neighbour = (threadIdx.x + 1) % blockDim.x;
    out[row * blockDim.x + neighbour] = buffer(row)[neighbour];
    __syncthreads();
  }
}

}  // namespace

void multiply_fragments(cudaStream_t stream, float* d, const uint32_t* a, const uint32_t* b) {
  cuda::launch(stream, multiply_fragments_kernel, {1, 32}, d, a, b);
}
void load_matrices(cudaStream_t stream, uint32_t* out, const uint16_t* matrices, bool transpose) {
  cuda::launch(stream, transpose ? load_matrices_kernel<true> : load_matrices_kernel<false>,
               {1, 32}, out, matrices);
}
void copy_through_shared(cudaStream_t stream, uint4* out, const uint4* in, int rows, int valid) {
  constexpr int kThreads = 64;
  cuda::launch(stream, copy_through_shared_kernel, {1, kThreads, 2 * kThreads * sizeof(uint4)}, out,
               in, rows, valid);
}

}  // namespace switchyard::test
