#include "backend/cuda/launch.cuh"
#include "backend/dispatch.h"
#include "cuda_emulator/tests/device/device_kernels.h"

namespace switchyard::test {
namespace {

// Every thread takes a number when it runs, before and after a barrier.
__global__ void take_numbers_kernel(int* before, int* after, int* counter) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  before[i] = atomicAdd(counter, 1);
  __syncthreads();
  after[i] = atomicAdd(counter, 1);
}

template <typename Real, int kSize>
__global__ void nothing_kernel(const Real*) {}

// What is in shared memory when a block begins, which leaves zeros there.
__global__ void read_new_shared_memory_kernel(int* out) {
  SHARED_ARRAY(int, values, 100);
  DYNAMIC_SHARED(memory);
  int* const dynamic = reinterpret_cast<int*>(memory);
  const unsigned i = threadIdx.x, first = blockIdx.x * 2 * blockDim.x;
  out[first + i] = values[i];
  out[first + blockDim.x + i] = dynamic[i];
  values[i] = dynamic[i] = 0;
}

__global__ void count_threads_kernel(int* count) { atomicAdd(count, 1); }

}  // namespace

void take_numbers(cudaStream_t stream, int* before, int* after, int* counter, int blocks,
                  int threads) {
  cuda::launch(stream, take_numbers_kernel, {dim3(blocks), dim3(threads)}, before, after, counter);
}

void launch_templates(cudaStream_t stream) {
  cuda::launch(stream, nothing_kernel<BFloat16, 3>, {2, 40}, static_cast<const BFloat16*>(nullptr));
  cuda::launch(stream, nothing_kernel<double, 4>, {dim3(1, 2, 3), dim3(4, 5, 6)},
               static_cast<const double*>(nullptr));
}

void read_new_shared_memory(cudaStream_t stream, int* out, int blocks) {
  constexpr int kThreads = 100;
  cuda::launch(stream, read_new_shared_memory_kernel,
               {dim3(blocks), kThreads, kThreads * sizeof(int)}, out);
}

void count_threads(cudaStream_t stream, int* count, dim3 grid, dim3 block) {
  cuda::launch(stream, count_threads_kernel, {grid, block}, count);
}

}  // namespace switchyard::test
