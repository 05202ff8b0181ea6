#include "checkpoint/snapshot.h"

#include <cstring>

#include "core/fault.h"

namespace switchyard {
namespace {

std::vector<size_t> begins_of(const std::vector<HeldTensor>& held) {
  std::vector<size_t> begins = {0};
  for (const HeldTensor& tensor : held)
    begins.push_back(begins.back() + static_cast<size_t>(tensor.data.bytes()));
  return begins;
}

}  // namespace

Snapshot::Snapshot(const std::vector<HeldTensor>& held, Backend& backend)
    : begin_(begins_of(held)), memory_(backend.allocate_host(static_cast<int64_t>(begin_.back()))) {
  std::memset(memory_.get(), 0, begin_.back());
}

void Snapshot::take(const std::vector<HeldTensor>& held, Backend& backend) {
  const Queue queue = backend.copy_queue();
  backend.wait(queue, backend.record(backend.compute_queue()));
  for (size_t i = 0; i < held.size(); ++i)
    backend.download_direct(queue, part(i).data(), held[i].data);
  backend.host_wait(backend.record(queue));
  for (size_t i = 0; i < held.size(); ++i) spoil(fault_point("checkpoint.snapshot"), part(i));
}

std::span<std::byte> Snapshot::part(size_t held) const {
  return {memory_.get() + begin_[held], begin_[held + 1] - begin_[held]};
}

std::span<const std::byte> Snapshot::bytes(size_t held) const { return part(held); }

}  // namespace switchyard
