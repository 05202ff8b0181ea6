#include "train/stop_signals.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>

#include "core/error.h"

namespace switchyard {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::array kSignals = {SIGUSR1, SIGTERM, SIGINT};
constexpr unsigned char kQuit = 0;  // no signal has this number
constexpr auto kSameWish = std::chrono::milliseconds(250);
constexpr unsigned kSecondsToEnd = 1;

std::atomic<int> signal_pipe = -1;

void pass_on(int signal) {
  const int saved = errno;
  const auto number = static_cast<unsigned char>(signal);
  // A full pipe has more signals in it than anybody needs.
  [[maybe_unused]] const ssize_t written = write(signal_pipe.load(), &number, 1);
  errno = saved;
}

}  // namespace

StopSignals::StopSignals(std::function<void(const std::string& signal)> before_the_end)
    : before_the_end_(std::move(before_the_end)) {
  int ends[2];
  SY_CHECK(signal_pipe.load() == -1, "somebody listens to the signals already");
  SY_CHECK(pipe2(ends, O_CLOEXEC) == 0, "cannot make a pipe: code {}", errno);
  read_end_ = ends[0];
  write_end_ = ends[1];
  fcntl(write_end_, F_SETFL, O_NONBLOCK);  // of this end alone: a handler must not block
  signal_pipe = write_end_;
  listener_ = std::thread([this] { listen(); });
  struct sigaction action = {};
  action.sa_handler = pass_on;
  action.sa_flags = SA_RESTART;
  for (const int signal : kSignals) sigaction(signal, &action, nullptr);
}

StopSignals::~StopSignals() {
  // The run is over: too late to ask for anything. SIGTERM is how mpirun ends the ranks of a job.
  ::signal(SIGUSR1, SIG_IGN);
  ::signal(SIGTERM, SIG_DFL);
  ::signal(SIGINT, SIG_DFL);
  signal_pipe = -1;
  [[maybe_unused]] const ssize_t written = write(write_end_, &kQuit, 1);
  listener_.join();
  close(read_end_);
  close(write_end_);
}

void StopSignals::listen() {
  Clock::time_point came_at;
  unsigned char signal = kQuit;
  for (;;) {
    const ssize_t count = read(read_end_, &signal, 1);
    if (count < 0 && errno == EINTR) continue;
    if (count != 1 || signal == kQuit) return;
    if (first_.load() == 0) {
      came_at = Clock::now();
      first_ = signal;
    } else if (Clock::now() - came_at > kSameWish) {
      end_now(signal);
    }
  }
}

void StopSignals::end_now(int signal) {
  ::signal(SIGALRM, SIG_DFL);
  alarm(kSecondsToEnd);  // in case of a disk that hangs
  before_the_end_(signal_name(signal));
  std::_Exit(static_cast<int>(ExitCode::kStopped));
}

std::string signal_name(int signal) {
  switch (signal) {
    case SIGUSR1:
      return "SIGUSR1";
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    default:
      return "signal " + std::to_string(signal);
  }
}

}  // namespace switchyard
