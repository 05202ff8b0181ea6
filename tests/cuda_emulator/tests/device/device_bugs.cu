#include "backend/cuda/launch.cuh"
#include "cuda_emulator/tests/device/device_bugs.h"
#include "cuda_emulator/tests/device/device_memory.h"

namespace switchyard::test {
namespace {

constexpr int kThreads = 64, kBlocks = 3;
constexpr unsigned kWholeWarp = 0xFFFFFFFFu;

// Runs kernel(out, in, broken) on kBlocks blocks of kThreads; in[i] = i + 1.
using BuggyKernel = void (*)(int* out, const int* in, bool broken);
template <typename Expected>
bool run_kernel(cudaStream_t stream, BuggyKernel kernel, bool broken, size_t shared_bytes,
                const Expected& expected) {
  std::vector<int> in(kBlocks * kThreads);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int>(i) + 1;
  const DeviceArray<int> in_there(stream, in), out(stream, in.size());
  cuda::launch(stream, kernel, {kBlocks, kThreads, shared_bytes}, out.data(), in_there.data(),
               broken);
  const auto result = out.fetch();
  for (int i = 0; i < kBlocks * kThreads; ++i)
    if (result[i] != expected(i)) return false;
  return true;
}

int own(int i) { return i + 1; }
int mirrored(int i) { return i / kThreads * kThreads + kThreads - i % kThreads; }
int of_neighbour_lane(int i) { return (i ^ 1) + 1; }

__device__ unsigned global_thread() { return blockIdx.x * blockDim.x + threadIdx.x; }

// ---- Barriers --------------------------------------------------------------------------------

__global__ void missing_barrier_kernel(int* out, const int* in, bool broken) {
  SHARED_ARRAY(int, values, kThreads);
  values[threadIdx.x] = in[global_thread()];
  if (!broken) __syncthreads();
  out[global_thread()] = values[kThreads - 1 - threadIdx.x];
}

// The second round overwrites what others still read of the first.
__global__ void missing_barrier_before_reuse_kernel(int* out, const int* in, bool broken) {
  SHARED_ARRAY(int, values, kThreads);
  values[threadIdx.x] = in[global_thread()] - 1;
  __syncthreads();
  int sum = values[kThreads - 1 - threadIdx.x];
  if (!broken) __syncthreads();
  values[threadIdx.x] = 1;
  __syncthreads();
  sum += values[kThreads - 1 - threadIdx.x];
  out[global_thread()] = sum;
}

__global__ void missing_warp_barrier_kernel(int* out, const int* in, bool broken) {
  SHARED_ARRAY(int, values, kThreads);
  values[threadIdx.x] = in[global_thread()];
  if (!broken) __syncwarp();
  out[global_thread()] = values[threadIdx.x ^ 1];
}

__global__ void divergent_barrier_kernel(int* out, const int* in, bool broken) {
  if (broken && threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[global_thread()] = in[global_thread()];
}

__global__ void barrier_against_shuffle_kernel(int* out, const int* in, bool broken) {
  if (broken && threadIdx.x % 32 == 5)
    __syncthreads();
  else
    out[global_thread()] = __shfl_xor_sync(kWholeWarp, in[global_thread()], 0);
  if (!broken || threadIdx.x % 32 != 5) __syncthreads();
}

// ---- Warps -------------------------------------------------------------------------------------

__global__ void mask_without_caller_kernel(int* out, const int* in, bool broken) {
  const unsigned mask = broken ? 0x0000FFFFu : kWholeWarp;
  out[global_thread()] = __shfl_xor_sync(mask, in[global_thread()], 1);
}

__global__ void mask_with_exited_lane_kernel(int* out, const int* in, bool broken) {
  if (broken && threadIdx.x % 32 == 31) return;
  out[global_thread()] = __shfl_xor_sync(kWholeWarp, in[global_thread()], 1);
}

__global__ void different_masks_kernel(int* out, const int* in, bool broken) {
  const unsigned mask = broken && threadIdx.x % 32 < 2 ? 0x00000003u : kWholeWarp;
  out[global_thread()] = __shfl_xor_sync(mask, in[global_thread()], 1);
}

__global__ void read_from_outside_the_mask_kernel(int* out, const int* in, bool broken) {
  const unsigned half = threadIdx.x % 32 < 16 ? 0x0000FFFFu : 0xFFFF0000u;
  const unsigned distance = broken ? 16 : 1;
  out[global_thread()] = __shfl_xor_sync(half, in[global_thread()], distance);
}

// ---- Memory ------------------------------------------------------------------------------------

__global__ void write_past_the_end_kernel(int* out, const int* in, bool broken) {
  out[global_thread() + (broken ? 1 : 0)] = in[global_thread()];
}
__global__ void read_past_the_end_kernel(int* out, const int* in, bool broken) {
  out[global_thread()] = in[global_thread() + (broken ? 1 : 0)] - (broken ? 1 : 0);
}
__global__ void read_before_the_begin_kernel(int* out, const int* in, bool broken) {
  out[global_thread()] = in[static_cast<long long>(global_thread()) - (broken ? 1024 : 0)];
}

__global__ void static_shared_overflow_kernel(int* out, const int* in, bool broken) {
  SHARED_ARRAY(int, values, kThreads);
  int* const there = values + threadIdx.x + (broken ? 1 : 0);  // the compiler sees no bounds here
  *there = in[global_thread()];
  out[global_thread()] = *there;
}

__global__ void shared_underflow_kernel(int* out, const int* in, bool broken) {
  SHARED_ARRAY(int, values, kThreads);
  int* const there = values + static_cast<int>(threadIdx.x) - (broken ? 1 : 0);
  *there = in[global_thread()];
  out[global_thread()] = *there;
}

__global__ void dynamic_shared_overflow_kernel(int* out, const int* in, bool broken) {
  DYNAMIC_SHARED(memory);
  int* const there = reinterpret_cast<int*>(memory) + threadIdx.x + (broken ? 1 : 0);
  *there = in[global_thread()];
  out[global_thread()] = *there;
}

template <int kCount>
__device__ int through_shared(int value) {
  SHARED_ARRAY(int, values, kCount);
  values[threadIdx.x] = value;
  return values[threadIdx.x];
}
__global__ void too_much_shared_kernel(int* out, const int* in, bool broken) {
  constexpr int kHalf = 6200;  // two arrays of it are more than 48 KiB
  int value = through_shared<kHalf>(in[global_thread()]);
  if (broken) value = through_shared<kHalf + 1>(value);
  out[global_thread()] = value;
}

__global__ void uninitialised_shared_kernel(int* out, const int* in, bool broken) {
  SHARED_ARRAY(int, values, kThreads);
  if (!broken || threadIdx.x != 7) values[threadIdx.x] = in[global_thread()];
  __syncthreads();
  out[global_thread()] = values[kThreads - 1 - threadIdx.x];
}

__global__ void uninitialised_global_kernel(int* out, const int* in, bool broken) {
  if (!broken) out[global_thread()] = 0;
  out[global_thread()] += in[global_thread()];
}

__global__ void misaligned_load_kernel(int* out, const int* in, bool broken) {
  if (threadIdx.x % 4 != 0) return;
  const uint4 word = *reinterpret_cast<const uint4*>(in + global_thread() + (broken ? 1 : 0));
  int* const target = out + global_thread();
  target[0] = static_cast<int>(word.x);
  target[1] = static_cast<int>(word.y);
  target[2] = static_cast<int>(word.z);
  target[3] = static_cast<int>(word.w);
}

__global__ void count_without_atomics_kernel(int* count, bool broken) {
  if (threadIdx.x != 0) return;
  if (broken)
    *count += 1;
  else
    atomicAdd(count, 1);
}

// ---- Asynchronous copies and matrices -----------------------------------------------------------

// What belongs to `block`: a quarter of the threads copy four ints each.
__device__ void start_copies(unsigned char* memory, const int* in, unsigned block) {
  if (threadIdx.x < kThreads / 4)
    cuda::cp_async_16(memory + 16 * threadIdx.x, in + block * kThreads + 4 * threadIdx.x, true);
  cuda::cp_async_commit();
}

__global__ void missing_copy_wait_kernel(int* out, const int* in, bool broken) {
  DYNAMIC_SHARED(memory);
  start_copies(memory, in, blockIdx.x);
  if (!broken) cuda::cp_async_wait<0>();
  __syncthreads();
  out[global_thread()] = reinterpret_cast<const int*>(memory)[kThreads - 1 - threadIdx.x];
}

// Waits for all groups but the newest, which is the one that is read.
__global__ void wait_for_older_copies_kernel(int* out, const int* in, bool broken) {
  DYNAMIC_SHARED(memory);
  start_copies(memory, in, blockIdx.x);
  if (broken)
    cuda::cp_async_wait<1>();
  else
    cuda::cp_async_wait<0>();
  __syncthreads();
  out[global_thread()] = reinterpret_cast<const int*>(memory)[kThreads - 1 - threadIdx.x];
}

// A thread's wait says nothing of the copies of others.
__global__ void missing_barrier_after_copy_kernel(int* out, const int* in, bool broken) {
  DYNAMIC_SHARED(memory);
  start_copies(memory, in, blockIdx.x);
  cuda::cp_async_wait<0>();
  if (!broken) __syncthreads();
  out[global_thread()] = reinterpret_cast<const int*>(memory)[kThreads - 1 - threadIdx.x];
}

// The second copy may arrive while others still read what the first one brought.
__global__ void copy_over_what_is_read_kernel(int* out, const int* in, bool broken) {
  DYNAMIC_SHARED(memory);
  start_copies(memory, in, blockIdx.x);
  cuda::cp_async_wait<0>();
  __syncthreads();
  const int value = reinterpret_cast<const int*>(memory)[kThreads - 1 - threadIdx.x];
  if (!broken) __syncthreads();
  start_copies(memory, in, (blockIdx.x + 1) % kBlocks);
  cuda::cp_async_wait<0>();
  out[global_thread()] = value;
}

__global__ void misaligned_copy_kernel(int* out, const int* in, bool broken) {
  DYNAMIC_SHARED(memory);
  start_copies(memory, in + (broken ? 1 : 0), blockIdx.x);
  cuda::cp_async_wait<0>();
  __syncthreads();
  out[global_thread()] = reinterpret_cast<const int*>(memory)[kThreads - 1 - threadIdx.x];
}

// All four matrices are the first eight rows; lane i gets word i % 4 of row i / 4.
__device__ void load_own_rows(int* out, const int* in, const uint32_t* rows) {
  uint32_t r[4];
  cuda::ldmatrix_x4<false>(r, rows);
  out[global_thread()] = threadIdx.x < 32 ? static_cast<int>(r[0]) : in[global_thread()];
}
__global__ void misaligned_matrix_kernel(int* out, const int* in, bool broken) {
  SHARED_ARRAY(uint32_t, values, 2 * kThreads);
  values[threadIdx.x] = static_cast<uint32_t>(in[global_thread()]);
  values[threadIdx.x + kThreads] = 0;
  __syncthreads();
  load_own_rows(out, in, values + 4 * (threadIdx.x % 8) + (broken ? 1 : 0));
}
__global__ void matrix_in_global_memory_kernel(int* out, const int* in, bool broken) {
  SHARED_ARRAY(uint32_t, values, 2 * kThreads);
  values[threadIdx.x] = static_cast<uint32_t>(in[global_thread()]);
  __syncthreads();
  const auto* global = reinterpret_cast<const uint32_t*>(in + blockIdx.x * kThreads);
  load_own_rows(out, in, (broken ? global : values) + 4 * (threadIdx.x % 8));
}

template <BuggyKernel kKernel, int (*kExpected)(int), size_t kSharedBytes = 0>
bool run(cudaStream_t stream, bool broken) {
  return run_kernel(stream, kKernel, broken, kSharedBytes, kExpected);
}

bool run_count_without_atomics(cudaStream_t stream, bool broken) {
  const DeviceArray<int> count(stream, std::vector<int>{0});
  cuda::launch(stream, count_without_atomics_kernel, {kBlocks, kThreads}, count.data(), broken);
  return count.fetch()[0] == kBlocks;
}

constexpr size_t kShared = kThreads * sizeof(int);

const DeviceBug kBugs[] = {
    {"missing_barrier", run<missing_barrier_kernel, mirrored>},
    {"missing_barrier_before_reuse", run<missing_barrier_before_reuse_kernel, mirrored>},
    {"missing_warp_barrier", run<missing_warp_barrier_kernel, of_neighbour_lane>},
    {"divergent_barrier", run<divergent_barrier_kernel, own>},
    {"barrier_against_shuffle", run<barrier_against_shuffle_kernel, own>},
    {"mask_without_caller", run<mask_without_caller_kernel, of_neighbour_lane>},
    {"mask_with_exited_lane", run<mask_with_exited_lane_kernel, of_neighbour_lane>},
    {"different_masks", run<different_masks_kernel, of_neighbour_lane>},
    {"read_from_outside_the_mask", run<read_from_outside_the_mask_kernel, of_neighbour_lane>},
    {"write_past_the_end", run<write_past_the_end_kernel, own>},
    {"read_past_the_end", run<read_past_the_end_kernel, own>},
    {"read_before_the_begin", run<read_before_the_begin_kernel, own>},
    {"static_shared_overflow", run<static_shared_overflow_kernel, own>},
    {"shared_underflow", run<shared_underflow_kernel, own>},
    {"dynamic_shared_overflow", run<dynamic_shared_overflow_kernel, own, kShared>},
    {"too_much_shared", run<too_much_shared_kernel, own>},
    {"uninitialised_shared", run<uninitialised_shared_kernel, mirrored>},
    {"uninitialised_global", run<uninitialised_global_kernel, own>},
    {"misaligned_load", run<misaligned_load_kernel, own>},
    {"count_without_atomics", run_count_without_atomics},
    {"missing_copy_wait", run<missing_copy_wait_kernel, mirrored, kShared>},
    {"wait_for_older_copies", run<wait_for_older_copies_kernel, mirrored, kShared>},
    {"missing_barrier_after_copy", run<missing_barrier_after_copy_kernel, mirrored, kShared>},
    {"copy_over_what_is_read", run<copy_over_what_is_read_kernel, mirrored, kShared>},
    {"misaligned_copy", run<misaligned_copy_kernel, mirrored, kShared>},
    {"misaligned_matrix", run<misaligned_matrix_kernel, own>},
    {"matrix_in_global_memory", run<matrix_in_global_memory_kernel, own>},
};

}  // namespace

std::span<const DeviceBug> device_bugs() { return kBugs; }

}  // namespace switchyard::test
