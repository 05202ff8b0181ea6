// CudaDevice: one GPU as kernels and products see it: its streams, cuBLAS handles, and scratch
// memory. Owned by CudaBackend, which outlives all users.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace switchyard {

class CudaDevice {
 public:
  // Makes `ordinal` the device of the calling thread.
  explicit CudaDevice(int ordinal);
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  int ordinal() const { return ordinal_; }
  const std::string& name() const { return name_; }               // "NVIDIA H100 80GB HBM3"
  int compute_capability() const { return compute_capability_; }  // 90
  int num_multiprocessors() const { return num_multiprocessors_; }
  double clock_hz() const { return clock_hz_; }  // the highest

  // Queues: 0 is that of the model's mathematics; communicators add their own.
  Queue add_queue();
  int num_queues() const { return static_cast<int>(lanes_.size()); }
  cudaStream_t stream(Queue queue) const { return lanes_[static_cast<size_t>(queue.id)].stream; }
  // Set to work on the stream of `queue`, with a workspace of its own: made with queue 0, for
  // others when first asked for.
  cublasHandle_t blas(Queue queue);

  // Device memory of at least `bytes` (aligned to 256) for what one Ops function asks `queue` to
  // do; the next call for that queue hands out the same memory. Grows to the largest size seen.
  std::byte* scratch(Queue queue, int64_t bytes);
  int64_t scratch_allocations() const { return scratch_allocations_; }

 private:
  struct Lane {
    cudaStream_t stream = nullptr;
    cublasHandle_t blas = nullptr;
    void* workspace = nullptr;
    std::byte* scratch = nullptr;
    int64_t scratch_bytes = 0;
  };
  Lane& lane(Queue queue) { return lanes_[static_cast<size_t>(queue.id)]; }

  int ordinal_;
  std::string name_;
  int compute_capability_ = 0, num_multiprocessors_ = 0;
  double clock_hz_ = 0;
  std::vector<Lane> lanes_;  // by queue
  int64_t scratch_allocations_ = 0;
};

}  // namespace switchyard
