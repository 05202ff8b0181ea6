#include "backend/cuda/launch.cuh"
#include "cuda_emulator/tests/device/device_kernels.h"

namespace switchyard::test {
namespace {

template <typename T>
__global__ void shuffle_kernel(T* out, const T* in, ShuffleKind kind, int operand, int width) {
  const T value = in[threadIdx.x];
  T result{};
  switch (kind) {
    case ShuffleKind::kIndex:
      result = __shfl_sync(0xFFFFFFFFu, value, operand, width);
      break;
    case ShuffleKind::kUp:
      result = __shfl_up_sync(0xFFFFFFFFu, value, static_cast<unsigned>(operand), width);
      break;
    case ShuffleKind::kDown:
      result = __shfl_down_sync(0xFFFFFFFFu, value, static_cast<unsigned>(operand), width);
      break;
    case ShuffleKind::kXor:
      result = __shfl_xor_sync(0xFFFFFFFFu, value, operand, width);
      break;
  }
  out[threadIdx.x] = result;
}

__global__ void shuffle_in_mask_kernel(int* out, const int* in, unsigned mask, int operand) {
  if ((mask >> threadIdx.x & 1) == 0) return;
  out[threadIdx.x] = __shfl_sync(mask, in[threadIdx.x], operand);
}

__global__ void vote_kernel(VoteResults* out, const int* in, unsigned mask) {
  if ((mask >> threadIdx.x & 1) == 0) return;
  const int value = in[threadIdx.x];
  out[threadIdx.x] = {__ballot_sync(mask, value), __any_sync(mask, value), __all_sync(mask, value),
                      __match_any_sync(mask, value)};
}

__global__ void reduce_kernel(ReduceResults* out, const int* in, unsigned mask) {
  if ((mask >> threadIdx.x & 1) == 0) return;
  const int value = in[threadIdx.x];
  const auto bits = static_cast<unsigned>(value);
  out[threadIdx.x] = {__reduce_add_sync(mask, bits),  __reduce_min_sync(mask, bits),
                      __reduce_max_sync(mask, bits),  __reduce_and_sync(mask, bits),
                      __reduce_or_sync(mask, bits),   __reduce_xor_sync(mask, bits),
                      __reduce_add_sync(mask, value), __reduce_min_sync(mask, value),
                      __reduce_max_sync(mask, value)};
}

__global__ void rotate_in_warp_kernel(int* out, const int* in, int rounds) {
  SHARED_ARRAY(int, values, 32);
  int mine = in[threadIdx.x];
  for (int round = 0; round < rounds; ++round) {
    values[threadIdx.x] = mine;
    __syncwarp();
    mine = values[(threadIdx.x + 1) % 32];
    __syncwarp();
  }
  out[threadIdx.x] = mine;
}

__global__ void sum_of_even_lanes_kernel(int* out, const int* in) {
  if (threadIdx.x % 2 == 1) return;
  constexpr unsigned kEven = 0x55555555u;
  int sum = in[threadIdx.x];
  for (int distance = 16; distance >= 2; distance /= 2)
    sum += __shfl_xor_sync(kEven, sum, distance);
  out[threadIdx.x] = sum;
}

}  // namespace

template <typename T>
void shuffle(cudaStream_t stream, T* out, const T* in, ShuffleKind kind, int operand, int width) {
  cuda::launch(stream, shuffle_kernel<T>, {1, 32}, out, in, kind, operand, width);
}
template void shuffle(cudaStream_t, int*, const int*, ShuffleKind, int, int);
template void shuffle(cudaStream_t, float*, const float*, ShuffleKind, int, int);
template void shuffle(cudaStream_t, double*, const double*, ShuffleKind, int, int);
template void shuffle(cudaStream_t, long long*, const long long*, ShuffleKind, int, int);

void shuffle_in_mask(cudaStream_t stream, int* out, const int* in, unsigned mask, int operand) {
  cuda::launch(stream, shuffle_in_mask_kernel, {1, 32}, out, in, mask, operand);
}
void vote(cudaStream_t stream, VoteResults* out, const int* in, unsigned mask) {
  cuda::launch(stream, vote_kernel, {1, 32}, out, in, mask);
}
void reduce(cudaStream_t stream, ReduceResults* out, const int* in, unsigned mask) {
  cuda::launch(stream, reduce_kernel, {1, 32}, out, in, mask);
}
void rotate_in_warp(cudaStream_t stream, int* out, const int* in, int rounds) {
  cuda::launch(stream, rotate_in_warp_kernel, {1, 32}, out, in, rounds);
}
void sum_of_even_lanes(cudaStream_t stream, int* out, const int* in) {
  cuda::launch(stream, sum_of_even_lanes_kernel, {1, 32}, out, in);
}

}  // namespace switchyard::test
