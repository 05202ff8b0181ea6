#include "checkpoint/tensor_feed.h"

#include <chrono>

#include "core/error.h"

namespace switchyard {

std::span<const std::byte> TensorFeed::ask(size_t held) {
  std::unique_lock lock(mutex_);
  asked_ = held;
  changed_.notify_all();
  changed_.wait(lock, [&] { return !asked_ || is_closed_; });
  SY_REQUIRE(kStorage, !asked_, "the save was given up before all was written");
  return bytes_;
}

void TensorFeed::serve(
    const std::function<void(size_t held, std::vector<std::byte>& bytes)>& copy) {
  constexpr std::chrono::milliseconds kQuiet(1), kLongest(100);
  const auto until = std::chrono::steady_clock::now() + kLongest;
  std::unique_lock lock(mutex_);
  while (changed_.wait_for(lock, kQuiet, [&] { return asked_.has_value(); })) {
    copy(*asked_, bytes_);
    asked_.reset();
    changed_.notify_all();
    if (std::chrono::steady_clock::now() > until) return;
  }
}

void TensorFeed::close() {
  const std::scoped_lock lock(mutex_);
  is_closed_ = true;
  changed_.notify_all();
}

}  // namespace switchyard
