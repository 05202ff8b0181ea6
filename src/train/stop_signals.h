// StopSignals: SIGUSR1, SIGTERM and SIGINT ask a run to save and stop. The first is remembered, for
// the ranks to agree on (train/stop_requests.h); a second one ends this process at once.
//
// A signal handler can reach nothing but a global: one file descriptor, to which it writes the
// number of the signal. Everything else happens on a thread that reads them, outside of MPI and of
// whatever the main thread waits for. Signals that come within a quarter of a second of the first
// are the same wish on two ways (mpirun and srun both pass them on).
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>

namespace switchyard {

class StopSignals {
 public:
  // Takes over the signals while it lives; one per process. On a second signal `before_the_end`
  // gets the signal's name and has a second, then the process exits with code kStopped.
  explicit StopSignals(std::function<void(const std::string& signal)> before_the_end);
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  int first() const { return first_.load(); }  // the signal that came first; 0: none yet

 private:
  void listen();
  [[noreturn]] void end_now(int signal);

  std::function<void(const std::string& signal)> before_the_end_;
  int read_end_ = -1, write_end_ = -1;  // of the pipe
  std::atomic<int> first_ = 0;
  std::thread listener_;
};

std::string signal_name(int signal);  // "SIGUSR1"

}  // namespace switchyard
