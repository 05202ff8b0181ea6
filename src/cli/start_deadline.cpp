#include "cli/start_deadline.h"

#include <pthread.h>

#include <chrono>
#include <csignal>
#include <cstdlib>

#include "core/error.h"
#include "core/log.h"

namespace switchyard {

StartDeadline::StartDeadline(double seconds) {
  thread_ = std::thread([this, seconds] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);  // they are for the main thread
    std::unique_lock lock(mutex_);
    const std::chrono::duration<double> limit(seconds);
    if (changed_.wait_for(lock, limit, [this] { return has_started_; })) return;
    spdlog::error(
        "MPI has not started after {} s: a rank is stopped, or its host cannot be reached "
        "(SWITCHYARD_START_TIMEOUT gives it more seconds)",
        seconds);
    std::_Exit(static_cast<int>(ExitCode::kHang));
  });
}

StartDeadline::~StartDeadline() {
  {
    const std::scoped_lock lock(mutex_);
    has_started_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

double start_timeout() {
  constexpr double kDefault = 600;
  const char* text = std::getenv("SWITCHYARD_START_TIMEOUT");
  const double seconds = text == nullptr ? 0 : std::strtod(text, nullptr);
  return seconds > 0 ? seconds : kDefault;
}

}  // namespace switchyard
