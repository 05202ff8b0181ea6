// Which thread runs next. Within a warp first, so that its operations complete with few stacks in
// use; threads that have not started share one stack as long as nobody waits.
#include <map>

#include "engine/machine.h"

namespace cuda_emulator {
namespace {

struct Random {  // xorshift64*
  uint64_t state = 1;
  unsigned below(unsigned limit) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return static_cast<unsigned>((state * 0x2545F4914F6CDD1DULL >> 32) % limit);
  }
};
Random random_numbers;

int random_bit(unsigned bits) {
  for (unsigned skip = random_numbers.below(__builtin_popcount(bits)); skip > 0; --skip)
    bits &= bits - 1;
  return __builtin_ctz(bits);
}

// The next lane of a warp after `lane` (-1: from the beginning), in cyclic order.
Thread* next_in_warp(int warp, int lane) {
  const unsigned lanes = machine.warps[warp].ready | machine.warps[warp].unstarted;
  if (lanes == 0) return nullptr;
  int next = 0;
  switch (schedule().order) {
    case Order::kForward: {
      const unsigned later = lane < 0 || lane == kLanes - 1 ? lanes : lanes & ~0U << (lane + 1);
      next = __builtin_ctz(later != 0 ? later : lanes);
      break;
    }
    case Order::kReverse: {
      const unsigned earlier = lane <= 0 ? lanes : lanes & ((1U << lane) - 1);
      next = kLanes - 1 - __builtin_clz(earlier != 0 ? earlier : lanes);
      break;
    }
    case Order::kRandom:
      next = random_bit(lanes);
      break;
  }
  return &machine.threads[warp * kLanes + next];
}

// Null if nobody can run.
Thread* next_thread(int warp, int lane) {
  const int num_warps = static_cast<int>(machine.warps.size());
  const bool random = schedule().order == Order::kRandom;
  const int step = schedule().order == Order::kReverse ? num_warps - 1 : 1;
  if (random) warp = static_cast<int>(random_numbers.below(num_warps));
  for (int i = 0; i < num_warps; ++i, warp = (warp + step) % num_warps)
    if (Thread* thread = next_in_warp(warp, i == 0 ? lane : -1)) return thread;
  return nullptr;
}

void make_current(Thread& thread) {
  machine.current = &thread;
  threadIdx = thread.index;
  Warp& warp = machine.warps[thread.warp];
  warp.ready &= ~lane_bit(thread);
  warp.unstarted &= ~lane_bit(thread);
}

// ---- Stacks ------------------------------------------------------------------------------------

void run_on_fiber();

std::vector<Fiber*> free_fibers;

// For ThreadSanitizer, thread i of a block is one thread, which it shares with the blocks before
// and after the neighbours (they are thus ordered), and with nobody of another stream that lives.
struct FiberPool {
  std::vector<Fiber*> of_block[2];
};
std::map<int, FiberPool> pools;  // by stream
std::vector<FiberPool> retired_pools;

FiberPool& pool_of(int stream) {
  const auto [found, is_new] = pools.try_emplace(stream);
  if (is_new && !retired_pools.empty()) {
    found->second = std::move(retired_pools.back());
    retired_pools.pop_back();
  }
  return found->second;
}

Fiber* sanitized_fiber(int number) {
  constexpr int kMost = 7900;  // of the 8192 threads that ThreadSanitizer can tell apart
  static int num_fibers;
  const Unseen unseen;
  auto& pool = pool_of(machine.launch->stream).of_block[machine.block_number % 2];
  while (pool.size() <= static_cast<size_t>(number)) {
    if (++num_fibers > kMost)
      fail("too many streams run kernels at a time for ThreadSanitizer, which knows 8192 threads");
    pool.push_back(make_fiber(run_on_fiber));
  }
  return pool[number];
}

Fiber* fiber_to_start(const Thread& thread) {
  if (under_thread_sanitizer()) return sanitized_fiber(thread.number);
  if (free_fibers.empty()) return make_fiber(run_on_fiber);
  Fiber* fiber = free_fibers.back();
  free_fibers.pop_back();
  return fiber;
}

void switch_to(Fiber* fiber) {
  Fiber& from = *machine.running;
  machine.running = fiber;
  switch_fiber(from, *fiber);
}

void switch_to(const Thread& thread) {
  switch_to(thread.started ? thread.fiber : fiber_to_start(thread));
}

Fiber host;  // where run_threads() was called

void run_thread(Thread& thread) {
  thread.started = true;
  happens_after(&machine.tokens->launch);
  machine.launch->kernel->call(machine.launch->kernel->function, machine.launch->arguments);
  happens_before(&machine.tokens->done);
  ++machine.num_exited;
  machine.warps[thread.warp].alive &= ~lane_bit(thread);
  leave_barrier();
  leave_warp(thread);
}

// Runs a thread, then whoever is next: on the same stack, if that one is new.
void run_on_fiber() {
  arrive();
  for (;;) {
    Thread& thread = *machine.current;
    run_thread(thread);
    Thread* next = next_thread(thread.warp, thread.lane);
    if (next == nullptr && machine.num_exited < machine.num_threads)
      fail_with_threads("deadlock: no thread of the block can go on");
    if (next != nullptr) make_current(*next);
    if (next != nullptr && !next->started && !under_thread_sanitizer()) continue;
    if (!under_thread_sanitizer()) free_fibers.push_back(machine.running);
    if (next != nullptr)
      switch_to(*next);
    else
      switch_to(&host);
  }
}

}  // namespace

void retire_stream(int stream) {
  const auto found = pools.find(stream);
  if (found == pools.end()) return;
  const Unseen unseen;
  retired_pools.push_back(std::move(found->second));
  pools.erase(found);
}

void seed_scheduler(uint64_t seed) { random_numbers.state = seed | 1; }

void run_threads() {
  const bool backwards = schedule().order == Order::kReverse;
  make_current(*next_thread(backwards ? static_cast<int>(machine.warps.size()) - 1 : 0, -1));
  host = this_fiber();
  machine.running = &host;
  switch_to(*machine.current);
}

void wait_for_others() {
  Thread& thread = *machine.current;
  Thread* next = next_thread(thread.warp, thread.lane);
  if (next == nullptr) fail_with_threads("deadlock: no thread of the block can go on");
  make_current(*next);
  if (next == &thread) return;
  thread.fiber = machine.running;
  switch_to(*next);
}

}  // namespace cuda_emulator
