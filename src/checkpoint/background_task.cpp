#include "checkpoint/background_task.h"

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "core/error.h"

namespace switchyard {

struct BackgroundTask::Shared {
  mutable std::mutex mutex;
  std::condition_variable ended;
  Status status = Status::kRunning;
  std::string error;
};

BackgroundTask::~BackgroundTask() {
  if (!is_abandoned_) wait();
}

void BackgroundTask::start(std::function<void()> work) {
  SY_CHECK(status() != Status::kRunning, "work is running in the background already");
  shared_ = std::make_shared<Shared>();
  is_abandoned_ = false;
  std::thread([shared = shared_, work = std::move(work)]() mutable {
    std::string error;
    Status status = Status::kDone;
    try {
      work();
    } catch (const std::exception& failure) {
      error = failure.what();
      status = Status::kFailed;
    }
    work = nullptr;  // what it owns goes before anybody hears that it has ended
    const std::lock_guard lock(shared->mutex);
    shared->status = status;
    shared->error = std::move(error);
    shared->ended.notify_all();
  }).detach();
}

BackgroundTask::Status BackgroundTask::status() const {
  if (!shared_) return Status::kIdle;
  const std::lock_guard lock(shared_->mutex);
  return shared_->status;
}

std::string BackgroundTask::error() const {
  if (!shared_) return "";
  const std::lock_guard lock(shared_->mutex);
  return shared_->error;
}

void BackgroundTask::wait() const {
  if (!shared_) return;
  std::unique_lock lock(shared_->mutex);
  shared_->ended.wait(lock, [&] { return shared_->status != Status::kRunning; });
}

}  // namespace switchyard
