// Snapshot: a copy in host memory of everything that this rank holds, as it is at one border of two
// steps. What is written from it may take as long as it likes: training goes on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/held_tensor.h"

namespace switchyard {

class Snapshot {
 public:
  // Takes the memory, and touches it, so that the first copy is as fast as later ones.
  Snapshot(const std::vector<HeldTensor>& held, Backend& backend);

  // Of those it was made for, once the compute queue has come to this point; the host waits. After
  // each tensor is a fault point, "checkpoint.snapshot".
  void take(const std::vector<HeldTensor>& held, Backend& backend);
  std::span<const std::byte> bytes(size_t held) const;

 private:
  std::span<std::byte> part(size_t held) const;

  std::vector<size_t> begin_;  // of each held tensor, and the end
  HostMemory memory_;
};

}  // namespace switchyard
