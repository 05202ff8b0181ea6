#include "engine/fiber.h"

#include <sys/mman.h>

#include <vector>

#include "engine/engine.h"
#include "engine/sanitizers.h"

#if !defined(__x86_64__)
#error "the switch of stacks is written for x86-64"
#endif

// Saves what a call must preserve, and jumps (a `ret` would mislead the branch predictor, which
// expects it to return to its caller).
extern "C" void cuda_emulator_switch_stack(void** from, void* to);
asm(R"(
.text
.globl cuda_emulator_switch_stack
.hidden cuda_emulator_switch_stack
.type cuda_emulator_switch_stack, @function
cuda_emulator_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx
.size cuda_emulator_switch_stack, .-cuda_emulator_switch_stack
)");

namespace cuda_emulator {
namespace {

constexpr size_t kPage = 4096;
constexpr int kSavedRegisters = 6;

std::vector<const char*> guards;  // the forbidden pages
Fiber* left;                      // the fiber that was switched from last

size_t stack_bytes() {
  const bool sanitized = under_address_sanitizer() || under_thread_sanitizer();
  return (sanitized ? 256 : 64) * size_t{1024};
}

// The tops of stacks are staggered: at equal distances they would compete for one set of the cache.
size_t stagger() {
  static size_t count;
  return 64 + count++ % 63 * 320;
}

}  // namespace

Fiber* make_fiber(void (*entry)()) {
  const Unseen unseen;
  const size_t bytes = stack_bytes();
  void* mapping = mmap(nullptr, kPage + bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) fail("no memory for the stack of a CUDA thread");
  mprotect(mapping, kPage, PROT_NONE);
  guards.push_back(static_cast<char*>(mapping));

  auto* fiber = new Fiber;
  char* stack = static_cast<char*>(mapping) + kPage;
  fiber->stack = stack;
  fiber->stack_bytes = bytes;
  fiber->sanitized_thread = create_sanitized_thread();
  void** top = reinterpret_cast<void**>(stack + bytes - stagger());
  *--top = nullptr;  // in place of a return address, which also aligns the stack
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  fiber->stack_pointer = top;
  return fiber;
}

Fiber this_fiber() {
  Fiber fiber;
  fiber.sanitized_thread = current_sanitized_thread();
  return fiber;
}

void switch_fiber(Fiber& from, Fiber& to) {
  if (&from == &to) return;
  left = &from;
  before_stack_switch(&from.fake_stack, to.stack, to.stack_bytes);
  switch_sanitized_thread(to.sanitized_thread);
  cuda_emulator_switch_stack(&from.stack_pointer, to.stack_pointer);
  after_stack_switch(from.fake_stack, &left->stack, &left->stack_bytes);
}

void arrive() { after_stack_switch(nullptr, &left->stack, &left->stack_bytes); }

bool below_a_stack(const void* address) {
  for (const char* guard : guards)
    if (address >= guard && address < guard + kPage) return true;
  return false;
}

// ---- Streams ---------------------------------------------------------------------------------

struct Context {
  Fiber* fiber;
  Fiber caller;
  void (*function)(void*);
  void* argument;
};

namespace {

Context* entered;
std::vector<Context*> retired;

void run_calls() {
  Context* const context = entered;
  for (;;) {
    context->function(context->argument);
    switch_fiber(*context->fiber, context->caller);
  }
}

}  // namespace

Context* create_context() {
  if (!under_thread_sanitizer()) return nullptr;
  const Unseen unseen;
  if (retired.empty()) return new Context{make_fiber(run_calls), {}, nullptr, nullptr};
  Context* context = retired.back();
  retired.pop_back();
  return context;
}

void retire_context(Context* context) {
  const Unseen unseen;
  if (context != nullptr) retired.push_back(context);
}

void run_in_context(Context* context, void (*function)(void*), void* argument) {
  if (context == nullptr) return function(argument);
  context->function = function;
  context->argument = argument;
  context->caller = this_fiber();
  entered = context;
  switch_fiber(context->caller, *context->fiber);
}

}  // namespace cuda_emulator
