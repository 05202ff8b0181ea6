#include "engine/sanitizers.h"

#include "engine/engine.h"

extern "C" {
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __tsan_release(void* address);
[[gnu::weak]] void AnnotateIgnoreReadsBegin(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreReadsEnd(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreWritesBegin(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreWritesEnd(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreSyncBegin(const char* file, int line);
[[gnu::weak]] void AnnotateIgnoreSyncEnd(const char* file, int line);
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake_stack, const void* stack,
                                                  size_t bytes);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake_stack, const void** old_stack,
                                                   size_t* old_bytes);
[[gnu::weak]] void __asan_poison_memory_region(const volatile void* memory, size_t bytes);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* memory, size_t bytes);
}

namespace cuda_emulator {

bool under_thread_sanitizer() { return &__tsan_create_fiber != nullptr; }
bool under_address_sanitizer() { return &__asan_poison_memory_region != nullptr; }

namespace {
constexpr unsigned kOrdersNothing = 1;  // of __tsan_switch_to_fiber
}

void happens_before(void* token) {
  if (under_thread_sanitizer()) __tsan_release(token);
}
void happens_after(void* token) {
  if (under_thread_sanitizer()) __tsan_acquire(token);
}

Unseen::Unseen() {
  if (!under_thread_sanitizer()) return;
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
}
Unseen::~Unseen() {
  if (!under_thread_sanitizer()) return;
  AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}

void* create_sanitized_thread() {
  return under_thread_sanitizer() ? __tsan_create_fiber(kOrdersNothing) : nullptr;
}
void* current_sanitized_thread() {
  return under_thread_sanitizer() ? __tsan_get_current_fiber() : nullptr;
}
void switch_sanitized_thread(void* thread) {
  if (under_thread_sanitizer()) __tsan_switch_to_fiber(thread, kOrdersNothing);
}

void before_stack_switch(void** fake_stack, const void* stack, size_t bytes) {
  if (under_address_sanitizer()) __sanitizer_start_switch_fiber(fake_stack, stack, bytes);
}
void after_stack_switch(void* fake_stack, const void** old_stack, size_t* old_bytes) {
  if (under_address_sanitizer()) __sanitizer_finish_switch_fiber(fake_stack, old_stack, old_bytes);
}
void forbid_memory(const void* memory, size_t bytes) {
  if (under_address_sanitizer()) __asan_poison_memory_region(memory, bytes);
}
void allow_memory(const void* memory, size_t bytes) {
  if (under_address_sanitizer()) __asan_unpoison_memory_region(memory, bytes);
}

}  // namespace cuda_emulator
