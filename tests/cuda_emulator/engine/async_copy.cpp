#include "cuda_emulator/async_copy.h"

#include <cstring>

#include "engine/machine.h"

namespace cuda_emulator {
namespace {

constexpr size_t kBytes = 16;

// As calls, not inlined: these accesses are the kernel's own, and the sanitizers see calls.
void* (*volatile copy_memory)(void*, const void*, size_t) = std::memcpy;
void* (*volatile fill_memory)(void*, int, size_t) = std::memset;

void finish_copy(const AsyncCopy& copy) {
  if (copy.valid)
    copy_memory(copy.shared, copy.global, kBytes);
  else
    fill_memory(copy.shared, 0, kBytes);
}

}  // namespace

void start_copy(void* shared, const void* global, bool valid, const Place& place) {
  Thread& thread = *machine.current;
  thread.place = place;
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % kBytes != 0)
    fail("%s: an address is not aligned to 16 bytes: shared %p, global %p", place.operation, shared,
         global);
  if (!is_shared(shared, kBytes))
    fail("%s: %p is not in the shared memory of the block", place.operation, shared);
  if (valid) {
    if (is_shared(global, kBytes))
      fail("%s: the source %p is in shared memory", place.operation, global);
    char read_now[kBytes];
    copy_memory(read_now, global, kBytes);
  }
  fill_memory(shared, 0xFF, kBytes);
  const Unseen unseen;
  thread.copies.push_back({shared, global, valid, thread.copy_group});
}

void commit_copies() { ++machine.current->copy_group; }

void wait_for_copies(int newest) {
  Thread& thread = *machine.current;
  size_t count = 0;
  while (count < thread.copies.size() && thread.copies[count].group < thread.copy_group - newest)
    finish_copy(thread.copies[count++]);
  const Unseen unseen;
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + static_cast<long>(count));
}

}  // namespace cuda_emulator
