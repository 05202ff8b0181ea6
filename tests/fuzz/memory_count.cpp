#include "memory_count.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

namespace {

// Operators new and delete can only be replaced for the whole program.
std::atomic<int64_t> bytes_in_use = 0, most_bytes = 0;

void* allocate_or_null(size_t bytes) noexcept {
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) return nullptr;
  bytes_in_use += static_cast<int64_t>(malloc_usable_size(memory));
  if (bytes_in_use > most_bytes) most_bytes = bytes_in_use.load();
  return memory;
}

void* allocate(size_t bytes) {
  void* memory = allocate_or_null(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void release(void* memory) noexcept {
  if (memory != nullptr) bytes_in_use -= static_cast<int64_t>(malloc_usable_size(memory));
  std::free(memory);
}

}  // namespace

void* operator new(size_t bytes) { return allocate(bytes); }
void* operator new[](size_t bytes) { return allocate(bytes); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return allocate_or_null(bytes); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept {
  return allocate_or_null(bytes);
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, size_t) noexcept { release(memory); }
void operator delete[](void* memory, size_t) noexcept { release(memory); }

namespace switchyard::fuzz {

MemoryCount::MemoryCount() : bytes_before_(bytes_in_use) { most_bytes = bytes_before_; }
int64_t MemoryCount::peak_bytes() const { return most_bytes - bytes_before_; }

}  // namespace switchyard::fuzz
