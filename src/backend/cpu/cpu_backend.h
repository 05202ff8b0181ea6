// CpuBackend: the host as a device. Work of its queue is done when a call returns, so only events
// of pending work are ever incomplete; a queue that waits for one blocks the host, like
// host_wait().
#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"
#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/fma_peak.h"
#include "backend/started_work.h"

namespace switchyard {

class CpuBackend final : public Backend {
 public:
  // `num_threads` OpenMP threads for this rank; 0: as many as its affinity mask has cores.
  explicit CpuBackend(int num_threads = 0);

  std::string description() const override;
  Ops& ops() override { return ops_; }
  double peak_flops(DType real) override { return measure_fma_peak(real, num_threads_); }
  Queue compute_queue() override { return Queue{0}; }
  Event record(Queue queue) override { return Event{queue.id, 0}; }
  void wait(Queue, Event event) override { host_wait(event); }
  void host_wait(Event event) override;
  Event start(std::unique_ptr<PendingWork> work, Event after) override;
  void progress() override { started_.advance(); }
  bool is_complete(Event event) override;
  void upload(Queue queue, Tensor device, const void* host) override;
  void download(Queue queue, void* host, Tensor device) override;

 private:
  std::byte* do_allocate(int64_t bytes) override;
  void do_free(std::byte* memory, int64_t bytes) override;

  int num_threads_;
  CpuOps ops_;
  StartedWork started_{*this};
  int64_t num_started_ = 0;
};

// Cores in this process's affinity mask.
int cores_in_affinity_mask();
// What the user could do to make matrix products faster; "" when nothing.
std::string advice_on_blas();

}  // namespace switchyard
