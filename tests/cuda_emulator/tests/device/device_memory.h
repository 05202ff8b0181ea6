// Arrays on the device for tests of kernels.
#pragma once

#include <cstring>
#include <vector>

#include "backend/cuda/cuda_check.h"

namespace switchyard::test {

class Stream {
 public:
  Stream() { CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// What is copied from and to: asynchronous copies of pageable memory are not asynchronous.
class Pinned {
 public:
  explicit Pinned(size_t bytes) { CUDA_CHECK(cudaMallocHost(&memory_, bytes)); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { cudaFreeHost(memory_); }
  void* memory() const { return memory_; }

 private:
  void* memory_ = nullptr;
};

template <typename T>
class DeviceArray {
 public:
  DeviceArray(cudaStream_t stream, size_t count) : stream_(stream), count_(count) {
    CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&data_), bytes()));
  }
  DeviceArray(cudaStream_t stream, const std::vector<T>& values)
      : DeviceArray(stream, values.size()) {
    const Pinned pinned(bytes());
    std::memcpy(pinned.memory(), values.data(), bytes());
    CUDA_CHECK(cudaMemcpyAsync(data_, pinned.memory(), bytes(), cudaMemcpyHostToDevice, stream));
    CUDA_CHECK(cudaStreamSynchronize(stream));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* data() const { return data_; }
  std::vector<T> fetch() const {
    const Pinned pinned(bytes());
    CUDA_CHECK(cudaMemcpyAsync(pinned.memory(), data_, bytes(), cudaMemcpyDeviceToHost, stream_));
    CUDA_CHECK(cudaStreamSynchronize(stream_));
    std::vector<T> values(count_);
    std::memcpy(values.data(), pinned.memory(), bytes());
    return values;
  }

 private:
  size_t bytes() const { return count_ * sizeof(T); }

  cudaStream_t stream_;
  size_t count_;
  T* data_ = nullptr;
};

}  // namespace switchyard::test
