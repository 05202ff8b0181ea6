// The block in execution: its threads, its warps, its barrier. There is one in a process.
#pragma once

#include <pthread.h>
#include <vector_types.h>

#include <vector>

#include "cuda_emulator/place.h"
#include "engine/engine.h"
#include "engine/fiber.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuda_emulator {

inline constexpr int kLanes = 32;

struct AsyncCopy {
  void* shared;
  const void* global;
  bool valid;
  int group;
};

struct Thread {
  uint3 index{};
  int number = 0, lane = 0, warp = 0;
  bool started = false;
  Fiber* fiber = nullptr;  // its stack, while it waits
  Place place;             // where it waits, or waited last
  unsigned mask = 0;       // of the warp operation in which it waits
  void* data = nullptr;    // its part of that
  std::vector<AsyncCopy> copies;
  int copy_group = 0;
};

struct Warp {  // one bit per lane
  unsigned unstarted = 0, ready = 0, alive = 0, arrived = 0;
};

struct Barrier {
  std::vector<int> waiting;  // numbers of threads
  int arrived = 0, yes = 0;
  int arrived_before = 0, yes_before = 0;  // of the round that was completed last
  unsigned round = 0;
  Place place;
};

// Addresses by which ThreadSanitizer is told who waits for whom. Of consecutive blocks they differ,
// so that they do not order the blocks.
struct Tokens {
  char launch, done;
  struct OfBlock {
    char barrier[2];  // of consecutive rounds
    char warp[kMaxThreadsPerBlock / kLanes];
  } of_block[2];
};

struct Machine {
  const Launch* launch = nullptr;  // null: no kernel is running
  pthread_t host{};                // the thread of the host that runs it
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barrier;
  int num_threads = 0, num_exited = 0;
  uint64_t block_number = 0;  // of all blocks ever run
  Tokens* tokens = nullptr;
  Fiber* running = nullptr;
  Thread* current = nullptr;
};
extern Machine machine;

inline Tokens::OfBlock& block_tokens() {
  return machine.tokens->of_block[machine.block_number % 2];
}
inline unsigned lane_bit(const Thread& thread) { return 1U << thread.lane; }

// ---- Scheduling (scheduler.cpp) --------------------------------------------------------------

void seed_scheduler(uint64_t seed);
// Runs all threads of a block, whose state has been reset.
void run_threads();
// The current thread has registered itself somewhere as waiting: runs others until somebody has
// made it ready and its turn comes.
void wait_for_others();
inline void make_ready(const Thread& thread) {
  machine.warps[thread.warp].ready |= lane_bit(thread);
}
// Barrier and warps: `thread` will not come any more.
void leave_barrier();
void leave_warp(const Thread& thread);

// ---- Shared memory (shared_memory.cpp) --------------------------------------------------------

void begin_shared_memory(size_t dynamic_bytes);
void check_shared_memory();  // has anybody written beside the arrays?
bool is_shared(const void* memory, size_t bytes);
// "past the end of the shared array x (64 bytes)", or empty.
const char* explain_shared(const void* address);

// ---- Failures (failure.cpp) --------------------------------------------------------------------

// fail(), after a list of what all threads of the block are doing.
[[noreturn]] [[gnu::format(printf, 1, 2)]] void fail_with_threads(const char* format, ...);

}  // namespace cuda_emulator
