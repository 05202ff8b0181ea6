// What the tests of CUDA kernels share. A case is a function of (device, ops, real): it makes its
// inputs on the host, moves them with `device`, calls `ops`, and returns its outputs. It runs on
// the CPU in f64, which is the definition, and on CUDA in f64, f32 and bf16.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "backend/cuda/cuda_check.h"
#include "backend/cuda/cuda_device.h"
#include "backend/cuda/cuda_ops.h"
#include "backend/op_checks.h"

namespace switchyard::test {

// The memory of tensors of one case: on the device, or on the host where `stream` is null.
class Placement {
 public:
  explicit Placement(cudaStream_t stream) : stream_(stream) {}
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;
  ~Placement() {
    for (void* memory : memory_) cudaFree(memory);
  }

  // A copy of `host` for the ops; a copy on the device ends where its memory does.
  template <typename T>
  Tensor operator()(HostTensor<T>& host) {
    if (stream_ == nullptr) return host.view();
    void* memory = nullptr;
    const size_t bytes = host.values.size() * sizeof(T);
    CUDA_CHECK(cudaMalloc(&memory, std::max<size_t>(bytes, 1)));
    memory_.push_back(memory);
    if (bytes > 0) {
      const Pinned pinned(bytes);
      std::memcpy(pinned.memory, host.values.data(), bytes);
      CUDA_CHECK(cudaMemcpyAsync(memory, pinned.memory, bytes, cudaMemcpyHostToDevice, stream_));
      CUDA_CHECK(cudaStreamSynchronize(stream_));
    }
    return Tensor(memory, DTypeOf<T>::value, host.view().shape());
  }

  // Brings the values of `tensor` back into `host`.
  template <typename T>
  void fetch(HostTensor<T>& host, Tensor tensor) {
    if (stream_ == nullptr || host.values.empty()) return;
    const size_t bytes = host.values.size() * sizeof(T);
    const Pinned pinned(bytes);
    CUDA_CHECK(
        cudaMemcpyAsync(pinned.memory, tensor.raw(), bytes, cudaMemcpyDeviceToHost, stream_));
    CUDA_CHECK(cudaStreamSynchronize(stream_));
    std::memcpy(host.values.data(), pinned.memory, bytes);
  }

 private:
  struct Pinned {
    void* memory = nullptr;
    explicit Pinned(size_t bytes) { CUDA_CHECK(cudaMallocHost(&memory, bytes)); }
    ~Pinned() { cudaFreeHost(memory); }
    Pinned(const Pinned&) = delete;
    Pinned& operator=(const Pinned&) = delete;
  };

  cudaStream_t stream_;
  std::vector<void*> memory_;
};

// run(ops, place, real) -> Outputs. On CUDA: f64 within `f64_bound`, f32 within `bound` of the
// CPU's f64, relative to the largest element; bf16 as check_bf16 (backend/op_checks.h); integers
// equal. Twice gives the same bits.
template <typename Run>
void check_on_cuda(double bound, const Run& run, double f64_bound = 1e-12) {
  CpuBackend cpu(1);
  Placement host(nullptr);
  const Outputs wide = run(cpu.ops(), host, double{});
  CudaDevice device(0);
  CudaOps ops(device);
  const auto on_cuda = [&](auto real) {
    Placement there(device.stream({}));
    Outputs first = run(ops, there, real);
    Placement again(device.stream({}));
    CHECK(same_bits(run(ops, again, real), first));
    return first;
  };
  const auto check = [&](const Outputs& narrow, double limit) {
    REQUIRE(narrow.size() == wide.size());
    for (size_t i = 0; i < wide.size(); ++i) {
      INFO("output " << i << ", " << name_of(narrow[i].dtype));
      if (narrow[i].dtype == DType::kI32)
        CHECK(narrow[i].values == wide[i].values);
      else if (narrow[i].dtype == DType::kBF16)
        CHECK(error_beyond_rounding(narrow[i].values, wide[i].values) <= limit);
      else
        CHECK(relative_error(narrow[i].values, wide[i].values) <= limit);
    }
  };
  check(on_cuda(double{}), f64_bound);
  check(on_cuda(float{}), bound);
  check(on_cuda(BFloat16{}), bound);
}

// For operations that choose, count, move, or add in a given order: on CUDA the very numbers of the
// CPU, in f64, f32 and bf16.
template <typename Run>
void check_equals_cpu(const Run& run) {
  CpuBackend cpu(1);
  CudaDevice device(0);
  CudaOps ops(device);
  const auto check = [&](auto real) {
    Placement host(nullptr), there(device.stream({}));
    const Outputs expected = run(cpu.ops(), host, real), actual = run(ops, there, real);
    REQUIRE(actual.size() == expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      INFO("output " << i << ", " << name_of(actual[i].dtype) << ", of "
                     << name_of(DTypeOf<decltype(real)>::value));
      CHECK(actual[i].values == expected[i].values);
    }
  };
  check(double{});
  check(float{});
  check(BFloat16{});
}

}  // namespace switchyard::test
