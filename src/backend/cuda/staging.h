// Staging: pinned host memory through which copies between the device and any host memory travel.
// A ring: room is given out in order, and taken back in order once copies are over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>

#include "backend/backend.h"

namespace switchyard {

class Staging {
 public:
  explicit Staging(int64_t bytes);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // No copy takes more.
  int64_t largest_piece() const { return capacity_ / 4; }
  // Nothing when there is no room until the oldest copy is over.
  std::optional<std::byte*> take(int64_t bytes);
  // The copy from or to what was taken last is over with `done`; what has arrived then goes on to
  // `host`, unless that is null.
  void copies(Event done, void* host);
  // Looks which copies are over, and moves on what they brought.
  void settle(const std::function<bool(Event)>& is_complete);
  Event oldest() const { return copies_.front().done; }
  // Nothing is moved on any more: the host memory may be gone.
  void abandon();

 private:
  struct Copy {
    std::byte* staged = nullptr;
    int64_t bytes = 0;
    int64_t span = 0;  // of the ring; what was left at its end counts
    Event done = {};
    void* host = nullptr;
    bool is_over = false;
  };

  std::byte* memory_ = nullptr;
  int64_t capacity_ = 0, next_ = 0, used_ = 0;
  std::deque<Copy> copies_;
};

}  // namespace switchyard
