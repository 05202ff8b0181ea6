#include "runtime/lock.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <optional>

#include "engine/engine.h"

namespace cuda_emulator {
namespace {

std::atomic<bool> taken{false};
thread_local int depth = 0;  // how often this thread holds the lock
thread_local std::optional<Unseen> unseen;

void take() {
  for (int attempt = 0; taken.exchange(true, std::memory_order_acquire); ++attempt) pause(attempt);
}

void release() { taken.store(false, std::memory_order_release); }

}  // namespace

Locked::Locked() {
  if (depth++ > 0) return;
  take();
  unseen.emplace();
}

Locked::~Locked() {
  if (--depth > 0) return;
  unseen.reset();
  release();
}

Unlocked::Unlocked() : depth_(depth) {
  depth = 0;
  release();
}

Unlocked::~Unlocked() {
  take();
  depth = depth_;
}

Seen::Seen() { unseen.reset(); }

Seen::~Seen() { unseen.emplace(); }

void pause(int attempt) {
  constexpr int kYields = 100, kLongest = 200;
  if (attempt < kYields)
    sched_yield();
  else
    usleep(static_cast<useconds_t>(std::min(kLongest, attempt - kYields + 1)));
}

}  // namespace cuda_emulator
