// TensorFeed: a writer thread gets the bytes of one tensor after another from the main thread,
// which alone may ask the device: for saves that keep no copy of everything.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

namespace switchyard {

class TensorFeed {
 public:
  // Writer's thread: waits until it is served. The bytes stay until the next call. Error
  // (kStorage): closed.
  std::span<const std::byte> ask(size_t held);

  // Main thread: does what is asked, until nothing has been for a millisecond, or for a tenth of a
  // second.
  void serve(const std::function<void(size_t held, std::vector<std::byte>& bytes)>& copy);
  // Nobody will serve any more.
  void close();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<size_t> asked_ = {};
  bool is_closed_ = false;
  std::vector<std::byte> bytes_ = {};
};

}  // namespace switchyard
