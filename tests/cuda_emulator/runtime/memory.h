// Memory of the emulated devices, and pinned host memory.
//
// Both are parts of one reservation of addresses. Every allocation has guard pages on both sides,
// and its end touches the guard behind it (up to its alignment, 16 bytes); new memory is 0xFF (NaN,
// -1), and freed addresses are never used again. Device memory cannot be touched: when the running
// operation does, the SIGSEGV handler opens the allocation, and it is closed when the operation
// ends. Every other touch stops the test with a message that names the address, the allocation and
// the operation. So a launch costs what it touches, however many allocations there are.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_emulator {

struct Allocation {
  enum class State {
    kUnborn,  // cudaMallocAsync: the stream has not come to it yet
    kLive,
    kDoomed,  // cudaFreeAsync: the stream has not come to it yet, but no more may be issued
    kFreed,
  };

  char* first = nullptr;
  size_t bytes = 0;
  char* first_page = nullptr;
  size_t page_bytes = 0;
  int number = 0;   // for messages: the n-th of this process
  int device = -1;  // -1: pinned host memory
  State state = State::kLive;
  bool open = false;  // the running operation has touched it

  bool pinned() const { return device < 0; }
  // Past the end as well: an address that a pointer of this allocation may hold.
  bool may_point_to(const void* address) const {
    return address >= first && address <= first + bytes;
  }
};

// Null if the device has no room.
Allocation* allocate_device(int device, size_t bytes, Allocation::State state);
Allocation* allocate_pinned(size_t bytes);
// Stops the test where the memory is no longer there.
void release(Allocation& allocation);

// The allocation whose memory or end `address` is, freed ones included; null if there is none.
Allocation* find_allocation(const void* address);
// Whether `address` is one of those that allocations are made of.
bool is_reserved(const void* address);
// Bytes that a device has handed out.
size_t bytes_in_use(int device);

// From here to close_device_memory(), this thread runs an operation of `device`.
void open_device_memory(int device, const char* operation);
void close_device_memory();

}  // namespace cuda_emulator
