// BackgroundTask: one piece of work at a time on a thread of its own, asked now and then how it is
// doing. The thread takes no signals, yields to others (nice), and must make no MPI call.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace switchyard {

class BackgroundTask {
 public:
  enum class Status { kIdle, kRunning, kDone, kFailed };

  BackgroundTask() = default;
  ~BackgroundTask();  // waits for running work, unless it was abandoned
  BackgroundTask(const BackgroundTask&) = delete;
  BackgroundTask& operator=(const BackgroundTask&) = delete;

  // Nothing may be running. An exception of `work` makes its status kFailed.
  void start(std::function<void()> work);

  Status status() const;
  std::string error() const;  // of work that failed

  // Waits until nothing runs, at most so long; false: something still does.
  bool wait_for(double seconds) const;
  // For work that hangs, in a system call that never returns, say: nobody waits for it any more,
  // and the next may start. It must own everything it touches.
  void abandon() { shared_ = nullptr; }

 private:
  struct Shared;  // between this object and the thread, which may outlive it
  std::shared_ptr<Shared> shared_;
};

// agree() (comm/collective_error.h) with `work`, which must make no MPI call, on a thread of every
// rank, while all ranks poll: what takes long on one of them, a slow disk, say, is no hang.
// Collective.
void agree_in_background(Communicator& world, std::function<void()> work);

}  // namespace switchyard
