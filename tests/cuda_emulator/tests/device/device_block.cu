#include "backend/cuda/launch.cuh"
#include "cuda_emulator/tests/device/device_kernels.h"

namespace switchyard::test {
namespace {

__global__ void vote_in_block_kernel(BarrierResults* out, const int* in, int exiting) {
  if (threadIdx.x >= blockDim.x - exiting) return;
  const int value = in[threadIdx.x];
  const int count = __syncthreads_count(value);
  const int any = __syncthreads_or(value);
  const int all = __syncthreads_and(value);
  out[threadIdx.x] = {count, any, all};
}

__global__ void reverse_in_block_kernel(int* out, const int* in) {
  SHARED_ARRAY(int, values, 1024);
  const unsigned first = blockIdx.x * blockDim.x;
  values[threadIdx.x] = in[first + threadIdx.x];
  __syncthreads();
  out[first + threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

__global__ void scan_in_block_kernel(int* out, const int* in) {
  DYNAMIC_SHARED(memory);
  int* from = reinterpret_cast<int*>(memory);
  int* to = from + blockDim.x;
  const unsigned first = blockIdx.x * blockDim.x;
  from[threadIdx.x] = in[first + threadIdx.x];
  for (unsigned distance = 1; distance < blockDim.x; distance *= 2) {
    __syncthreads();
    to[threadIdx.x] =
        from[threadIdx.x] + (threadIdx.x >= distance ? from[threadIdx.x - distance] : 0);
    int* const other = from;
    from = to;
    to = other;
  }
  out[first + threadIdx.x] = from[threadIdx.x];
}

__global__ void write_indices_kernel(Indices* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = {
      {threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z, blockDim.x,
       blockDim.y, blockDim.z, gridDim.x, gridDim.y, gridDim.z}};
}

__global__ void alignments_kernel(int* out) {
  SHARED_ARRAY(char, bytes, 3);
  SHARED_ARRAY(double, words, 5);
  SHARED_ARRAY(float4, packets, 1);
  DYNAMIC_SHARED(dynamic);
  out[0] = static_cast<int>(reinterpret_cast<uintptr_t>(&bytes[0]) % 16);
  out[1] = static_cast<int>(reinterpret_cast<uintptr_t>(&words[0]) % 16);
  out[2] = static_cast<int>(reinterpret_cast<uintptr_t>(&packets[0]) % 16);
  out[3] = static_cast<int>(reinterpret_cast<uintptr_t>(dynamic) % 128);
}

__global__ void atomics_kernel(AtomicResults* results, unsigned* returned) {
  const auto i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  returned[i] = static_cast<unsigned>(atomicAdd(&results->add, 1));
  atomicSub(&results->sub, i);
  atomicMin(&results->min, i - 5);
  atomicMax(&results->max, i - 5);
  atomicExch(&results->exchange, i);
  if (atomicCAS(&results->compare, 0, i + 1) == 0) atomicAdd(&results->winners, 1);
  atomicAnd(&results->bit_and, ~(1u << i % 32));
  atomicOr(&results->bit_or, 1u << i % 32);
  atomicXor(&results->bit_xor, static_cast<unsigned>(i));
  atomicInc(&results->inc, 6u);
  atomicDec(&results->dec, 6u);
  atomicAdd(&results->wide_add, 1ull << 32);
  atomicAdd(&results->float_add, 0.5F);
  atomicAdd(&results->double_add, 0.25);
}

__global__ void sum_by_last_block_kernel(int* sum, int* partial, unsigned* counter, const int* in) {
  SHARED_ARRAY(int, of_block, 1);
  SHARED_ARRAY(bool, is_last, 1);
  if (threadIdx.x == 0) of_block[0] = 0;
  __syncthreads();
  atomicAdd(&of_block[0], in[blockIdx.x * blockDim.x + threadIdx.x]);
  __syncthreads();
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = of_block[0];
    __threadfence();
    is_last[0] = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (!is_last[0] || threadIdx.x > 0) return;
  int total = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) total += partial[block];
  *sum = total;
}

}  // namespace

void vote_in_block(cudaStream_t stream, BarrierResults* out, const int* in, int threads,
                   int exiting) {
  cuda::launch(stream, vote_in_block_kernel, {1, dim3(threads)}, out, in, exiting);
}
void reverse_in_block(cudaStream_t stream, int* out, const int* in, int blocks, int threads) {
  cuda::launch(stream, reverse_in_block_kernel, {dim3(blocks), dim3(threads)}, out, in);
}
void scan_in_block(cudaStream_t stream, int* out, const int* in, int blocks, int threads) {
  cuda::launch(stream, scan_in_block_kernel,
               {dim3(blocks), dim3(threads), 2 * sizeof(int) * static_cast<size_t>(threads)}, out,
               in);
}
void write_indices(cudaStream_t stream, Indices* out, dim3 grid, dim3 block) {
  cuda::launch(stream, write_indices_kernel, {grid, block}, out);
}
void alignments(cudaStream_t stream, int* out) {
  cuda::launch(stream, alignments_kernel, {1, 1, 40}, out);
}
void atomics(cudaStream_t stream, AtomicResults* results, unsigned* returned, int blocks,
             int threads) {
  cuda::launch(stream, atomics_kernel, {dim3(blocks), dim3(threads)}, results, returned);
}
void sum_by_last_block(cudaStream_t stream, int* sum, int* partial, unsigned* counter,
                       const int* in, int blocks, int threads) {
  cuda::launch(stream, sum_by_last_block_kernel, {dim3(blocks), dim3(threads)}, sum, partial,
               counter, in);
}

}  // namespace switchyard::test
