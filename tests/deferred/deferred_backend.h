// DeferredBackend: a device that does nothing at once, for tests. It has the memory and the
// mathematics of the CPU backend, but every operation, upload, download and collective is only
// queued (timeline.h), as on a GPU, and memory holds garbage wherever a GPU's might:
//   - new memory, and what an arena scope gives back, when its queue comes to that point;
//   - the host memory of a download, until it has run.
// Code that forgets to wait therefore computes NaN, or is found by the vector clocks of the
// timeline. Also reported: work on memory that is not the device's, or is freed too early.
//
// Nothing throws because of a mistake: `reports()` holds what was found, to be looked at in the
// end.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "deferred/collective_order.h"
#include "deferred/deferred_ops.h"
#include "deferred/timeline.h"

namespace switchyard::test {

class DeferredBackend final : public Backend {
 public:
  explicit DeferredBackend(RunOrder order, int num_threads = 1);

  std::string description() const override { return "deferred " + inner_.description(); }
  Ops& ops() override { return ops_; }
  double peak_flops(DType real) override { return inner_.peak_flops(real); }

  Queue compute_queue() override { return compute_; }
  Queue copy_queue() override { return copies_; }
  Event record(Queue queue) override { return timeline_.last(queue.id); }
  void wait(Queue queue, Event event) override;
  void host_wait(Event event) override { timeline_.host_wait(event); }
  Event start(std::unique_ptr<PendingWork> work, Event after) override;
  void progress() override { timeline_.run_some(); }
  bool is_complete(Event event) override { return timeline_.poll(event); }
  void upload(Queue queue, Tensor device, const void* host) override;
  void download(Queue queue, void* host, Tensor device) override;
  void released(Queue queue, std::byte* memory, int64_t bytes) override;

  // The host waits for everything.
  void finish();
  // Plants a mistake: no queue waits for what communicators of this name do.
  void forget_waits_for(std::string communicator) { forgotten_ = std::move(communicator); }

  const std::vector<std::string>& reports() const { return timeline_.reports(); }
  // Work in the order in which it ran.
  const std::vector<std::string>& finished() const { return timeline_.finished(); }
  // Collectives in the order in which this rank asked for them.
  const std::vector<IssuedCollective>& issued() const { return issued_; }

  // For DeferredCommunicator.
  Timeline& timeline() { return timeline_; }
  Event defer_collective(int queue, Work work, Event after, IssuedCollective issued);

 private:
  std::byte* do_allocate(int64_t bytes) override;
  void do_free(std::byte* memory, int64_t bytes) override;
  void defer(Queue queue, Work work);
  void check_on_device(const Work& work);

  CpuBackend inner_;
  Timeline timeline_;
  Queue compute_, copies_, started_;
  DeferredOps ops_;
  std::map<const std::byte*, Buffer> memory_;  // by its address
  std::vector<std::unique_ptr<PendingWork>> started_work_;
  std::vector<IssuedCollective> issued_;
  std::string forgotten_;
};

}  // namespace switchyard::test
