// CudaEvents: which cudaEvent stands for which Event of a queue. A queue works in order, so an
// event is complete when a later one of its queue is; its cudaEvent is then used again.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "backend/backend.h"

namespace switchyard {

class CudaEvents {
 public:
  CudaEvents() = default;
  ~CudaEvents();
  CudaEvents(const CudaEvents&) = delete;
  CudaEvents& operator=(const CudaEvents&) = delete;

  // The work that `stream`, which is `queue`'s, has been given so far. Tickets rise.
  Event record(Queue queue, cudaStream_t stream, int64_t ticket);
  bool is_complete(Event event) const;  // asks CUDA; never blocks
  // Null when the event is known to be complete.
  cudaEvent_t find(Event event) const;

  // Takes back the cudaEvents of what is complete, and names the tickets.
  void collect(const std::function<void(int64_t ticket)>& completed);
  int64_t num_collected() const { return num_collected_; }
  // Those that are not known to be complete, up to this one, oldest first.
  std::vector<int64_t> open_tickets(int64_t last) const;

 private:
  struct Recorded {
    int64_t ticket = 0;
    cudaEvent_t event = nullptr;
  };

  std::vector<std::deque<Recorded>> open_;  // by queue
  std::vector<cudaEvent_t> spare_;
  int64_t num_collected_ = 0;
};

}  // namespace switchyard
