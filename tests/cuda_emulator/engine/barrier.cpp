#include <cstring>

#include "cuda_emulator/block.h"
#include "engine/machine.h"

namespace cuda_emulator {
namespace {

bool same(const Place& a, const Place& b) {
  return a.line == b.line && std::strcmp(a.operation, b.operation) == 0 &&
         std::strcmp(a.file, b.file) == 0;
}

void open_if_complete() {
  Barrier& barrier = machine.barrier;
  if (barrier.arrived == 0 || barrier.arrived < machine.num_threads - machine.num_exited) return;
  for (int number : barrier.waiting) make_ready(machine.threads[number]);
  barrier.waiting.clear();
  barrier.arrived_before = barrier.arrived;
  barrier.yes_before = barrier.yes;
  barrier.arrived = barrier.yes = 0;
  ++barrier.round;
}

}  // namespace

Votes synchronize_block(bool predicate, const Place& place) {
  Barrier& barrier = machine.barrier;
  Thread& thread = *machine.current;
  thread.place = place;
  if (barrier.arrived == 0) {
    barrier.place = place;
  } else if (!same(barrier.place, place)) {
    fail_with_threads("divergent barrier: %s at %s:%d, while others wait in %s at %s:%d",
                      place.operation, place.file, place.line, barrier.place.operation,
                      barrier.place.file, barrier.place.line);
  }
  void* token = &block_tokens().barrier[barrier.round % 2];
  happens_before(token);
  ++barrier.arrived;
  barrier.yes += predicate;
  const unsigned round = barrier.round;
  open_if_complete();
  if (barrier.round == round) {
    barrier.waiting.push_back(thread.number);
    wait_for_others();
  }
  happens_after(token);
  return {barrier.yes_before, barrier.arrived_before};
}

void leave_barrier() { open_if_complete(); }

void fence() {
  static char token;
  happens_after(&token);
  happens_before(&token);
}

void trap(const Place& place) {
  machine.current->place = place;
  fail("__trap");
}

}  // namespace cuda_emulator
