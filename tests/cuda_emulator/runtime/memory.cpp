#include "runtime/memory.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <vector>

#include "engine/engine.h"
#include "runtime/settings.h"
#include "runtime/stream.h"

extern "C" {
[[gnu::weak]] void __tsan_read_range(void* address, unsigned long bytes);
[[gnu::weak]] void __tsan_write_range(void* address, unsigned long bytes);
}

namespace cuda_emulator {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 16;
constexpr size_t kGap = size_t{1} << 20;  // between allocations: addresses cost nothing
constexpr int kPoison = 0xFF;

// The reservation, and everything that was ever allocated in it, by its first page.
struct Reservation {
  char* first = nullptr;
  size_t bytes = 0;
  size_t used = 0;
  std::map<const char*, Allocation> allocations;
  std::vector<size_t> in_use;  // by device

  bool holds(const void* address) const {
    return first != nullptr && address >= first && address < first + bytes;
  }
};
Reservation& reservation = *new Reservation;

// The operation that runs, and the thread it runs on.
struct Running {
  bool active = false;
  pthread_t thread{};
  int device = 0;
  const char* operation = "";
  std::vector<Allocation*> touched;
};
Running& running = *new Running;

bool is_mine() { return running.active && pthread_equal(running.thread, pthread_self()) != 0; }

void reserve() {
  // ThreadSanitizer has shadow memory for a few ranges of addresses only: the kernel chooses there.
  const bool sanitized = under_thread_sanitizer();
  reservation.bytes = size_t{1} << (sanitized ? 36 : 40);
  // Elsewhere addresses are the same in every run; two numbers of a structure beside each other are
  // no such address unless the second one is among 27518 ... 27773.
  void* wish = sanitized ? nullptr : reinterpret_cast<void*>(0x6B7E00000000);
  void* memory =
      mmap(wish, reservation.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fail("cannot reserve addresses for device memory: %m");
  madvise(memory, reservation.bytes, MADV_DONTDUMP);
  reservation.first = static_cast<char*>(memory);
}

// What a touch of `address` comes upon: the allocation in whose pages or behind which it lies.
Allocation* allocation_at(const void* address) {
  auto next = reservation.allocations.upper_bound(static_cast<const char*>(address));
  return next == reservation.allocations.begin() ? nullptr : &std::prev(next)->second;
}

const char* fault_of(const Allocation* allocation, const char* address) {
  if (!is_mine()) {
    if (allocation == nullptr || !allocation->may_point_to(address))
      return "host code touches an address of no allocation";
    if (!allocation->pinned()) return "host code touches device memory";
    return allocation->state == Allocation::State::kFreed
               ? "host code touches freed pinned memory"
               : "host code touches pinned memory out of bounds";
  }
  if (allocation == nullptr) return "no allocation";
  if (address < allocation->first) return "out of bounds, before the first byte";
  if (address >= allocation->first + allocation->bytes) return "out of bounds, past the last byte";
  if (allocation->state == Allocation::State::kFreed) return "use after free";
  if (allocation->state == Allocation::State::kUnborn)
    return "used before the cudaMallocAsync of its stream, which no event orders before";
  return "memory of another device";
}

bool is_write(const void* context) {
  constexpr greg_t kWriteBit = 2;
  return (static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & kWriteBit) != 0;
}

[[noreturn]] void report(int signal, const siginfo_t* info, const void* context) {
  const auto* address = static_cast<const char*>(info->si_addr);
  const Allocation* allocation = allocation_at(address);
  char where[200] = "";
  if (allocation != nullptr)
    std::snprintf(where, sizeof where, ", byte %td of allocation %d (%zu bytes, %s)",
                  address - allocation->first, allocation->number, allocation->bytes,
                  allocation->pinned() ? "pinned" : "device");
  char message[1000];
  std::snprintf(message, sizeof message, "%s: %s at %p%s, in %s", fault_of(allocation, address),
                is_write(context) ? "write" : "read", static_cast<const void*>(address), where,
                is_mine() ? running.operation : "host code");
  fail_at_fault(signal, info, context, message);
}

struct sigaction previous_handler[NSIG];

void on_fault(int signal, siginfo_t* info, void* context) {
  auto* address = static_cast<char*>(info->si_addr);
  if (signal == SIGILL || signal == SIGFPE || !reservation.holds(address)) {
    if (in_kernel()) fail_at_fault(signal, info, context, nullptr);
    // Not ours: it comes again, to whoever was there before.
    sigaction(signal, &previous_handler[signal], nullptr);
    return;
  }
  Allocation* allocation = allocation_at(address);
  const bool may_open = is_mine() && allocation != nullptr && !allocation->open &&
                        allocation->device == running.device &&
                        (allocation->state == Allocation::State::kLive ||
                         allocation->state == Allocation::State::kDoomed) &&
                        address < allocation->first_page + allocation->page_bytes;
  if (!may_open) report(signal, info, context);
  allocation->open = true;
  running.touched.push_back(allocation);
  mprotect(allocation->first_page, allocation->page_bytes, PROT_READ | PROT_WRITE);
}

// The handler needs a stack of its own: faults come on the small stacks of CUDA threads. Where the
// thread has one already (AddressSanitizer gives one, and takes it back), it is that.
void provide_stack() {
  constexpr size_t kBytes = size_t{64} << 10;
  stack_t stack{};
  sigaltstack(nullptr, &stack);
  if ((stack.ss_flags & SS_DISABLE) == 0) return;
  stack.ss_sp = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (stack.ss_sp == MAP_FAILED) fail("no memory for the stack of a signal handler");
  stack.ss_size = kBytes;
  stack.ss_flags = 0;
  sigaltstack(&stack, nullptr);
}

// Others (MPI, test frameworks) install handlers too, and may do so after us.
void install_handler() {
  thread_local bool has_stack = false;
  if (!has_stack) provide_stack();
  has_stack = true;
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) {
    struct sigaction present {};
    sigaction(signal, nullptr, &present);
    if ((present.sa_flags & SA_SIGINFO) != 0 && present.sa_sigaction == on_fault) continue;
    previous_handler[signal] = present;
    struct sigaction ours {};
    ours.sa_sigaction = on_fault;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(signal, &ours, nullptr);
  }
}

// Between the last byte and the guard lie up to 15 bytes that no guard protects.
void check_tail(const Allocation& allocation) {
  const char* end = allocation.first_page + allocation.page_bytes;
  for (const char* byte = allocation.first + allocation.bytes; byte < end; ++byte)
    if (static_cast<unsigned char>(*byte) != kPoison)
      fail("out of bounds, past the last byte: %s wrote byte %td of allocation %d (%zu bytes)",
           running.operation, byte - allocation.first, allocation.number, allocation.bytes);
}

Allocation* allocate(int device, size_t bytes, Allocation::State state) {
  if (reservation.first == nullptr) reserve();
  install_handler();
  const size_t used = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  const size_t page_bytes = (used + kPage - 1) / kPage * kPage;
  const size_t taken = page_bytes + 2 * kPage + kGap;
  if (reservation.used + taken > reservation.bytes)
    fail("the addresses reserved for device memory are used up");
  char* first_page = reservation.first + reservation.used + kPage;
  reservation.used += taken;
  mprotect(first_page, page_bytes, PROT_READ | PROT_WRITE);
  std::memset(first_page, kPoison, page_bytes);
  if (device >= 0) mprotect(first_page, page_bytes, PROT_NONE);

  Allocation& allocation = reservation.allocations[first_page];
  allocation = {.first = first_page + page_bytes - used,
                .bytes = bytes,
                .first_page = first_page,
                .page_bytes = page_bytes,
                .number = static_cast<int>(reservation.allocations.size()),
                .device = device,
                .state = state};
  return &allocation;
}

// Freed, or, for what is issued now, freed by then.
bool is_gone(const Allocation& allocation) {
  return allocation.state == Allocation::State::kFreed ||
         (allocation.state == Allocation::State::kDoomed && !is_mine());
}

bool holds_all(const void* p, size_t bytes, bool pinned) {
  const Allocation* allocation = find_allocation(p);
  if (allocation == nullptr || allocation->pinned() != pinned || is_gone(*allocation)) return false;
  return static_cast<const char*>(p) + bytes <= allocation->first + allocation->bytes;
}

}  // namespace

Allocation* allocate_device(int device, size_t bytes, Allocation::State state) {
  reservation.in_use.resize(settings().devices.size());
  size_t& in_use = reservation.in_use[static_cast<size_t>(device)];
  if (in_use + bytes > settings().memory_bytes) return nullptr;
  in_use += bytes;
  return allocate(device, bytes, state);
}

Allocation* allocate_pinned(size_t bytes) { return allocate(-1, bytes, Allocation::State::kLive); }

void release(Allocation& allocation) {
  if (allocation.state == Allocation::State::kFreed)
    fail("allocation %d (%zu bytes) is freed twice", allocation.number, allocation.bytes);
  if (allocation.pinned()) check_tail(allocation);
  allocation.state = Allocation::State::kFreed;
  if (!allocation.pinned())
    reservation.in_use[static_cast<size_t>(allocation.device)] -= allocation.bytes;
  mmap(allocation.first_page, allocation.page_bytes, PROT_NONE,
       MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

Allocation* find_allocation(const void* address) {
  Allocation* allocation = allocation_at(address);
  return allocation != nullptr && allocation->may_point_to(address) ? allocation : nullptr;
}

bool is_reserved(const void* address) { return reservation.holds(address); }

size_t bytes_in_use(int device) {
  return static_cast<size_t>(device) < reservation.in_use.size()
             ? reservation.in_use[static_cast<size_t>(device)]
             : 0;
}

void open_device_memory(int device, const char* operation) {
  install_handler();
  running.thread = pthread_self();
  running.device = device;
  running.operation = operation;
  running.touched.reserve(1024);  // the handler must not allocate
  running.active = true;
}

void close_device_memory() {
  for (Allocation* allocation : running.touched) {
    allocation->open = false;
    if (allocation->state == Allocation::State::kFreed) continue;
    check_tail(*allocation);
    mprotect(allocation->first_page, allocation->page_bytes, PROT_NONE);
  }
  running.touched.clear();
  running.active = false;
}

bool is_device(const void* p, size_t bytes) { return holds_all(p, bytes, false); }
bool is_pinned(const void* p, size_t bytes) { return holds_all(p, bytes, true); }

void note_read(const void* p, size_t bytes) {
  if (&__tsan_read_range != nullptr) __tsan_read_range(const_cast<void*>(p), bytes);
}

void note_write(const void* p, size_t bytes) {
  if (&__tsan_write_range != nullptr) __tsan_write_range(const_cast<void*>(p), bytes);
}

void copy_noted(void* to, const void* from, size_t bytes) {
  note_read(from, bytes);
  note_write(to, bytes);
  const Unseen unseen;
  std::memcpy(to, from, bytes);
}

void need_device(const void* p, size_t bytes, const char* what) {
  if (bytes == 0 || is_device(p, bytes)) return;
  const Allocation* allocation = find_allocation(p);
  if (allocation == nullptr) fail("%s: %p (%zu bytes) is no device memory", what, p, bytes);
  if (is_gone(*allocation))
    fail("%s: %p (%zu bytes): use after free, of allocation %d", what, p, bytes,
         allocation->number);
  fail("%s: %p (%zu bytes) ends beyond allocation %d (%zu bytes, %s)", what, p, bytes,
       allocation->number, allocation->bytes, allocation->pinned() ? "pinned" : "device");
}

}  // namespace cuda_emulator
