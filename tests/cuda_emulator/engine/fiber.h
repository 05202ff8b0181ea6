// A stack on which a CUDA thread (or, for ThreadSanitizer, a stream) runs, and the switch from one
// to another.
#pragma once

#include <cstddef>

namespace cuda_emulator {

struct Fiber {
  void* stack_pointer = nullptr;  // while another one runs
  const void* stack = nullptr;
  size_t stack_bytes = 0;
  void* sanitized_thread = nullptr;
  void* fake_stack = nullptr;
};

// Below the stack lies a page that nobody may touch. `entry` must never return, and begins with
// arrive().
Fiber* make_fiber(void (*entry)());
// The stack that the calling thread is on; filled in when it is left.
Fiber this_fiber();
void switch_fiber(Fiber& from, Fiber& to);
void arrive();

// Whether `address` is where a stack has overflown.
bool below_a_stack(const void* address);

}  // namespace cuda_emulator
