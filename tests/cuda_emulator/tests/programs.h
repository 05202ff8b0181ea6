// What programs of tests share: streams, device memory, pinned memory, and two kernels.
#pragma once

#include <cuda_runtime.h>

#include "child.h"
#include "cuda_emulator/device.h"

namespace cuda_emulator::test {

constexpr int kCount = 1000;

// One thread per element.
inline void scale_kernel(float* x, float factor, int n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < static_cast<unsigned>(n)) x[i] *= factor;
}

// y[i] = x[i] + 1, one thread per element.
inline void add_one_kernel(float* y, const float* x, int n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < static_cast<unsigned>(n)) y[i] = x[i] + 1;
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   size_t shared_bytes, Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

inline cudaStream_t make_stream() {
  cudaStream_t stream = nullptr;
  EXPECT_SUCCESS(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}

inline cudaEvent_t make_event() {
  cudaEvent_t event = nullptr;
  EXPECT_SUCCESS(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

inline float* device_floats(int count = kCount) {
  void* memory = nullptr;
  EXPECT_SUCCESS(cudaMalloc(&memory, static_cast<size_t>(count) * sizeof(float)));
  return static_cast<float*>(memory);
}

inline float* pinned_floats(float value, int count = kCount) {
  void* memory = nullptr;
  EXPECT_SUCCESS(cudaMallocHost(&memory, static_cast<size_t>(count) * sizeof(float)));
  for (int i = 0; i < count; ++i) static_cast<float*>(memory)[i] = value;
  return static_cast<float*>(memory);
}

constexpr size_t kBytes = kCount * sizeof(float);

inline void upload(float* to, const float* from, cudaStream_t stream) {
  EXPECT_SUCCESS(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyHostToDevice, stream));
}
inline void download(float* to, const float* from, cudaStream_t stream) {
  EXPECT_SUCCESS(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToHost, stream));
}
// Small blocks: under ThreadSanitizer each of their threads is one to make.
inline void scale(float* x, float factor, cudaStream_t stream) {
  EXPECT_SUCCESS(launch(stream, scale_kernel, dim3(32), dim3(32), 0, x, factor, kCount));
}
inline void add_one(float* y, const float* x, cudaStream_t stream) {
  EXPECT_SUCCESS(launch(stream, add_one_kernel, dim3(32), dim3(32), 0, y, x, kCount));
}

inline bool all_equal(const float* x, float value, int count = kCount) {
  for (int i = 0; i < count; ++i)
    if (x[i] != value) return false;
  return true;
}

}  // namespace cuda_emulator::test
