// StartDeadline: ends the process when a job does not come to life. While MPI starts, all ranks
// wait for all others, without a watchdog yet (train/watchdog.h); a rank whose machine has stopped
// would hold them up without end.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

namespace switchyard {

class StartDeadline {
 public:
  // The process ends with kHang after so long, unless this has ended first.
  explicit StartDeadline(double seconds);
  ~StartDeadline();
  StartDeadline(const StartDeadline&) = delete;
  StartDeadline& operator=(const StartDeadline&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool has_started_ = false;
  std::thread thread_;
};

// SWITCHYARD_START_TIMEOUT, in seconds; ten minutes where it is not set or no number.
double start_timeout();

}  // namespace switchyard
