// BackgroundTask: one piece of work at a time on a thread of its own, asked now and then how it is
// doing. The work must make no MPI call.
#pragma once

#include <functional>
#include <memory>
#include <string>

namespace switchyard {

class BackgroundTask {
 public:
  enum class Status { kIdle, kRunning, kDone, kFailed };

  BackgroundTask() = default;
  // Waits for running work, unless it was abandoned.
  ~BackgroundTask();
  BackgroundTask(const BackgroundTask&) = delete;
  BackgroundTask& operator=(const BackgroundTask&) = delete;

  // Nothing may be running. An exception of `work` makes its status kFailed.
  void start(std::function<void()> work);
  Status status() const;
  std::string error() const;  // of work that failed
  // Blocks until nothing runs.
  void wait() const;

  // For work that hangs, in a system call that never returns, say: nobody will wait for it. It
  // still counts as running until it ends, and must own everything it touches.
  void abandon() { is_abandoned_ = true; }

 private:
  struct Shared;  // between this object and the thread, which may outlive it
  std::shared_ptr<Shared> shared_;
  bool is_abandoned_ = false;
};

}  // namespace switchyard
