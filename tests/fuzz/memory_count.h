// MemoryCount: the largest amount of memory from operator new that was in use at a time since it
// was made. One at a time. Executables that contain it count all their allocations.
#pragma once

#include <cstdint>

namespace switchyard::fuzz {

class MemoryCount {
 public:
  MemoryCount();
  int64_t peak_bytes() const;

 private:
  int64_t bytes_before_;
};

}  // namespace switchyard::fuzz
