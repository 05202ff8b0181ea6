#include "checkpoint/background_task.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>

#include "comm/collective_error.h"
#include "core/error.h"

namespace switchyard {

struct BackgroundTask::Shared {
  mutable std::mutex mutex;
  std::condition_variable ended;
  Status status = Status::kRunning;
  std::string error;

  void run(std::function<void()> work) {
    std::string failure;
    try {
      work();
    } catch (const std::exception& thrown) {
      failure = thrown.what();
    }
    work = nullptr;  // what it owns goes before anybody hears of its end
    const std::scoped_lock lock(mutex);
    status = failure.empty() ? Status::kDone : Status::kFailed;
    error = std::move(failure);
    ended.notify_all();
  }
};

namespace {

// Signals are for the main thread; the cores are for training first.
void stand_back() {
  constexpr int kNice = 10;
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  const auto thread = static_cast<id_t>(syscall(SYS_gettid));
  setpriority(PRIO_PROCESS, thread, kNice);  // as good as it goes
}

}  // namespace

BackgroundTask::~BackgroundTask() { wait_for(std::numeric_limits<double>::infinity()); }

void BackgroundTask::start(std::function<void()> work) {
  SY_CHECK(status() != Status::kRunning, "work is running in the background already");
  shared_ = std::make_shared<Shared>();
  std::thread([shared = shared_, work = std::move(work)]() mutable {
    stand_back();
    shared->run(std::move(work));
  }).detach();
}

BackgroundTask::Status BackgroundTask::status() const {
  if (!shared_) return Status::kIdle;
  const std::scoped_lock lock(shared_->mutex);
  return shared_->status;
}

std::string BackgroundTask::error() const {
  if (!shared_) return "";
  const std::scoped_lock lock(shared_->mutex);
  return shared_->error;
}

bool BackgroundTask::wait_for(double seconds) const {
  if (!shared_) return true;
  std::unique_lock lock(shared_->mutex);
  const auto has_ended = [&] { return shared_->status != Status::kRunning; };
  if (seconds == std::numeric_limits<double>::infinity()) {
    shared_->ended.wait(lock, has_ended);
    return true;
  }
  return shared_->ended.wait_for(lock, std::chrono::duration<double>(seconds), has_ended);
}

void agree_in_background(Communicator& world, std::function<void()> work) {
  constexpr std::chrono::milliseconds kPause(1);
  std::exception_ptr failure;
  BackgroundTask task;
  task.start([&failure, work = std::move(work)] {
    try {
      work();
    } catch (...) {
      failure = std::current_exception();
    }
  });
  const auto runs = [&] { return task.status() == BackgroundTask::Status::kRunning ? 1.0 : 0.0; };
  while (world.all_reduce_max_host(runs()) > 0) std::this_thread::sleep_for(kPause);
  agree(world, [&] {
    if (failure) std::rethrow_exception(failure);
  });
}

}  // namespace switchyard
