// CudaBackend: a GPU as a device. Queues are streams, and the host runs ahead of them; where it
// waits, it polls, as on the CPU, and never sleeps in the driver (but for freeing memory, below).
//
//   upload      copies to pinned memory at once; the rest is work of the queue. Waits for older
//               copies only where the pinned memory (Options::staging_bytes) is full.
//   download    is work of the queue, to pinned memory; the values come to their place when the
//               host waits for an event (host_wait). More than fits into the pinned memory travels
//               in pieces, and the call waits for all but the last of them.
//   wait        for an event of a queue is work of the queue; for started work, which only the host
//               moves, the host waits, as on the CPU.
//   freeing     waits for all that the device has been asked to do (cudaFree), but not while an
//               error ends the job: then that may never be done.
//
// One thread drives it: the one that made it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "backend/cuda/cuda_device.h"
#include "backend/cuda/cuda_events.h"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/nvtx_ranges.h"
#include "backend/cuda/staging.h"
#include "backend/started_work.h"

namespace switchyard {

class CudaBackend final : public Backend {
 public:
  struct Options {
    int ordinal = 0;                            // among the GPUs that this process sees
    int64_t staging_bytes = int64_t{32} << 20;  // for each direction
    std::function<std::string()> advice = {};   // ends the message when memory runs out
  };
  explicit CudaBackend(Options options);
  ~CudaBackend() override;

  std::string description() const override;  // "cuda:0 NVIDIA H100 80GB HBM3, sm_90"
  Ops& ops() override { return ops_; }
  double peak_flops(DType real) override;  // theoretical (peak_flops.h)

  Queue compute_queue() override { return {}; }
  Queue copy_queue() override { return copy_queue_; }
  Event record(Queue queue) override;
  void wait(Queue queue, Event event) override;
  void host_wait(Event event) override;
  Event start(std::unique_ptr<PendingWork> work, Event after = {}) override;
  void progress() override;
  bool is_complete(Event event) override;

  void upload(Queue queue, Tensor device, const void* host) override;
  void download(Queue queue, void* host, Tensor device) override;
  HostMemory allocate_host(int64_t bytes) override;  // pinned
  void download_direct(Queue queue, std::byte* host, Tensor device) override;

  // For communicators, which have queues of their own.
  CudaDevice& device() { return device_; }
  // Calls of host_wait, also those that find everything done.
  int64_t host_waits() const { return host_waits_; }

 private:
  std::byte* do_allocate(int64_t bytes) override;
  void do_free(std::byte* memory, int64_t bytes) override;
  [[noreturn]] void fail_for_lack_of_memory(int64_t bytes) const;

  int64_t next_ticket() { return ++last_ticket_; }
  std::byte* take(Staging& staging, int64_t bytes);
  void settle();
  void poll_until_complete(Event event);
  bool mark_oldest_call(Event event);

  Options options_;
  CudaDevice device_;
  CudaOps ops_;
  Queue copy_queue_;
  CudaEvents events_;
  StartedWork started_{*this};
  Staging uploads_, downloads_;
  NvtxRanges ranges_;
  int64_t last_ticket_ = 0;  // of any event: marks tell calls by it
  int64_t host_waits_ = 0;
};

}  // namespace switchyard
