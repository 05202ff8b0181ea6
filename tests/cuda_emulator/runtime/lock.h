// The one lock of the emulator, which every call of CUDA takes. No std::mutex: ThreadSanitizer
// would take it for an order between host threads, which CUDA does not promise. Recursive. What a
// host thread does while it holds the lock is unseen (engine.h) by ThreadSanitizer.
// (For the same reason what is shared here is never destroyed, and host code may call CUDA to its
// very end.)
#pragma once

namespace cuda_emulator {

class Locked {
 public:
  Locked();
  ~Locked();
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
};

// Gives the lock up, however often this thread holds it, until the end of the scope.
class Unlocked {
 public:
  Unlocked();
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  int depth_;
};

// Within its scope this host thread, which holds the lock, is seen again: it tells ThreadSanitizer
// of an order.
class Seen {
 public:
  Seen();
  ~Seen();
  Seen(const Seen&) = delete;
  Seen& operator=(const Seen&) = delete;
};

// Lets other threads and processes run for a moment; longer and longer the larger `attempt`.
void pause(int attempt);

}  // namespace cuda_emulator
