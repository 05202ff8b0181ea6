// What the threads of a block share: the barrier, shared memory, and the order of accesses to
// memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_emulator/place.h"

namespace cuda_emulator {

// Waits for all threads of the block that have not exited.
struct Votes {
  int yes, all;  // threads that came with a true predicate; that came at all
};
Votes synchronize_block(bool predicate, const Place& place);

// An array of one `SHARED_ARRAY` in the source. It lies before a page that nobody may touch, and is
// filled with 0xFF (NaN, -1) when a block first comes by.
struct SharedArray {
  const char* name;
  size_t bytes;
  unsigned char* address = nullptr;
  uint64_t block = 0;  // number of the block it was last filled for
};
void* shared_memory(SharedArray& array);
unsigned char* dynamic_shared_memory();

// Orders the accesses of the calling thread, for ThreadSanitizer too.
void fence();
[[noreturn]] void trap(const Place& place);

}  // namespace cuda_emulator

inline void __syncthreads(CUDA_EMULATOR_CALLER) {
  ::cuda_emulator::synchronize_block(false, {"__syncthreads", file, line});
}
inline int __syncthreads_count(int predicate, CUDA_EMULATOR_CALLER) {
  return ::cuda_emulator::synchronize_block(predicate != 0, {"__syncthreads_count", file, line})
      .yes;
}
inline int __syncthreads_or(int predicate, CUDA_EMULATOR_CALLER) {
  return ::cuda_emulator::synchronize_block(predicate != 0, {"__syncthreads_or", file, line}).yes >
         0;
}
inline int __syncthreads_and(int predicate, CUDA_EMULATOR_CALLER) {
  const auto [yes, all] =
      ::cuda_emulator::synchronize_block(predicate != 0, {"__syncthreads_and", file, line});
  return yes == all;
}

inline void __threadfence_block() { ::cuda_emulator::fence(); }
inline void __threadfence() { ::cuda_emulator::fence(); }
inline void __threadfence_system() { ::cuda_emulator::fence(); }
inline void __trap(CUDA_EMULATOR_CALLER) { ::cuda_emulator::trap({"__trap", file, line}); }

// Hints about caches say nothing here.
template <typename T>
inline T __ldg(const T* address) {
  return *address;
}
template <typename T>
inline T __ldcg(const T* address) {
  return *address;
}
template <typename T>
inline T __ldcs(const T* address) {
  return *address;
}
template <typename T>
inline void __stcg(T* address, T value) {
  *address = value;
}
template <typename T>
inline void __stcs(T* address, T value) {
  *address = value;
}
