#include "comm/staged_communicator.h"

#include <algorithm>

namespace switchyard::test {
namespace {

struct Range {
  std::byte *begin, *end;     // on the host
  std::byte* copy = nullptr;  // on the device
};

Range range_of(Tensor tensor) {
  auto* const begin = static_cast<std::byte*>(tensor.raw());
  return {begin, begin + tensor.bytes()};
}

// Ordered, with those that overlap made one.
std::vector<Range> ranges_of(const Collective& collective) {
  std::vector<Range> all, merged;
  for (const std::vector<Tensor>& tensors : {collective.written(), collective.read()})
    for (const Tensor tensor : tensors)
      if (tensor.bytes() > 0) all.push_back(range_of(tensor));
  std::ranges::sort(all, {}, &Range::begin);
  for (const Range& range : all)
    if (merged.empty() || merged.back().end <= range.begin)
      merged.push_back(range);
    else
      merged.back().end = std::max(merged.back().end, range.end);
  return merged;
}

}  // namespace

std::unique_ptr<Communicator> StagedCommunicator::do_split(int color, int key, std::string name) {
  return std::make_unique<StagedCommunicator>(inner().split(color, key, std::move(name)), device_);
}

Event StagedCommunicator::forward(Collective collective, Event after) {
  const Queue queue = device_.compute_queue();
  device_.wait(queue, after);
  Arena::Scope scope(memory_);
  std::vector<Range> ranges = ranges_of(collective);
  for (Range& range : ranges) {
    const Tensor there =
        memory_.allocate(DType::kU8, {static_cast<int64_t>(range.end - range.begin)});
    range.copy = static_cast<std::byte*>(there.raw());
    device_.upload(queue, there, range.begin);
  }
  const auto move = [&](Tensor& tensor) {
    if (tensor.is_none() || tensor.bytes() == 0) return;
    auto* const begin = static_cast<std::byte*>(tensor.raw());
    const auto range = std::ranges::find_if(
        ranges, [&](const Range& r) { return r.begin <= begin && begin < r.end; });
    tensor = Tensor(range->copy + (begin - range->begin), tensor.dtype(), tensor.shape());
  };
  const std::vector<Tensor> written = collective.written();
  move(collective.out);
  move(collective.input);
  for (Message& message : collective.sends) move(message.tensor);
  for (Message& message : collective.receives) move(message.tensor);
  device_.wait(queue, run(collective, device_.record(queue)));
  for (Tensor tensor : written) {
    Tensor there = tensor;
    move(there);
    if (tensor.bytes() > 0) device_.download(queue, tensor.raw(), there);
  }
  device_.host_wait(device_.record(queue));
  return {};
}

}  // namespace switchyard::test
