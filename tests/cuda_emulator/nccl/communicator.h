// ncclComm: what is behind the emulated handle. Everything that needs other ranks (to join, to
// split, to finalize) is a sequence of steps, advanced by whoever asks for its state.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "nccl/group.h"
#include "nccl/launch.h"

struct ncclComm {
 public:
  ncclComm(std::string its_name, bool blocks) : name(std::move(its_name)), is_blocking(blocks) {}

  // Advances what is under way. ncclInProgress, or how it ended; asynchronous errors, too.
  ncclResult_t poll();
  bool is_busy() const { return !steps.empty(); }
  void then(std::function<bool()> step) { steps.push_back(std::move(step)); }
  // What a blocking call waits for.
  ncclResult_t wait();

  std::string name;
  const bool is_blocking;
  bool is_destroyed = false;
  std::unique_ptr<cuda_emulator::nccl::Group> group;
  cuda_emulator::nccl::LaunchContext context;
  uint64_t num_splits = 0;
  int num_registered = 0;
  std::deque<std::function<bool()>> steps;  // each is called until it returns true
};

namespace cuda_emulator::nccl {

// A communicator in which this process is `rank`, joining the others by the memory of that name.
// It lives until the process ends: launches may outlive the handle.
ncclComm* new_communicator(SharedMemoryName memory, int rank, int size, const ncclConfig_t& config);
// The ranks of `parent` with the same color, ordered by key. *child is there when parent->poll() is
// no longer in progress.
void split(ncclComm* parent, int color, int key, ncclComm** child, const ncclConfig_t& config);

}  // namespace cuda_emulator::nccl
