// Scratch: memory in which a thread of a parallel region keeps converted blocks. It stays from call
// to call and grows to the largest block asked for: a step of sizes already seen allocates nothing.
#pragma once

#include <omp.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "core/error.h"
#include "core/math.h"

namespace switchyard {

class Scratch {
 public:
  explicit Scratch(int num_threads) : blocks_(static_cast<size_t>(num_threads)) {}

  // `count` elements of the calling thread, 64-byte aligned and undefined, until it asks again.
  template <typename T>
  T* take(int64_t count) {
    Block& block = blocks_[static_cast<size_t>(omp_get_thread_num())];
    const int64_t bytes = round_up(count * static_cast<int64_t>(sizeof(T)), kAlignment);
    if (bytes > block.bytes) {
      block.memory.reset();
      block.memory.reset(std::aligned_alloc(kAlignment, static_cast<size_t>(bytes)));
      SY_CHECK(block.memory != nullptr, "out of memory: {} bytes", bytes);
      block.bytes = bytes;
    }
    return static_cast<T*>(block.memory.get());
  }

 private:
  static constexpr int64_t kAlignment = 64;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  struct Block {
    std::unique_ptr<void, Free> memory;
    int64_t bytes = 0;
  };
  std::vector<Block> blocks_;
};

}  // namespace switchyard
