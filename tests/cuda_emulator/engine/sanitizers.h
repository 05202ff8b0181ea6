// What the sanitizers want to hear of fibers and of memory; nothing happens where there is none.
// The engine itself is compiled without them and finds them at run time.
#pragma once

#include <cstddef>

namespace cuda_emulator {

// ThreadSanitizer: a fiber is a thread to it. Switching orders nothing.
void* create_sanitized_thread();
void* current_sanitized_thread();
void switch_sanitized_thread(void* thread);

// AddressSanitizer: bounds of the stack we go to; `fake_stack` belongs to the one we leave.
void before_stack_switch(void** fake_stack, const void* stack, size_t bytes);
void after_stack_switch(void* fake_stack, const void** old_stack, size_t* old_bytes);
void forbid_memory(const void* memory, size_t bytes);
void allow_memory(const void* memory, size_t bytes);

}  // namespace cuda_emulator
