#include "checkpoint/snapshot.h"

#include "core/fault.h"

namespace switchyard {

Snapshot::Snapshot(const std::vector<HeldTensor>& held) {
  begin_.push_back(0);
  for (const HeldTensor& tensor : held)
    begin_.push_back(begin_.back() + static_cast<size_t>(tensor.data.bytes()));
  memory_.resize(begin_.back());
}

void Snapshot::take(const std::vector<HeldTensor>& held, Backend& backend) {
  for (size_t i = 0; i < held.size(); ++i)
    backend.download(backend.compute_queue(), memory_.data() + begin_[i], held[i].data);
  backend.host_wait(backend.record(backend.compute_queue()));
  for (size_t i = 0; i < held.size(); ++i)
    spoil(fault_point("checkpoint.snapshot"),
          std::span(memory_).subspan(begin_[i], begin_[i + 1] - begin_[i]));
}

std::span<const std::byte> Snapshot::bytes(size_t held) const {
  return std::span(memory_).subspan(begin_[held], begin_[held + 1] - begin_[held]);
}

}  // namespace switchyard
