#include "verify/faulty_communicator.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "backend/ops.h"

namespace switchyard {
namespace {

bool is_real(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kBF16;
}

}  // namespace

Fault fault_in(const std::string& group) {
  constexpr std::array<const char*, 6> kSummed = {"dp", "edp", "tp", "etp", "kv", "tied"};
  if (group == "ep") return {.group = group, .call = Fault::Call::kExchange};
  if (group == "pp") return {.group = group, .call = Fault::Call::kMessage};
  SY_REQUIRE(kConfig, std::find(kSummed.begin(), kSummed.end(), group) != kSummed.end(),
             "--plant-fault {}: expected one of {}, ep, pp", group, fmt::join(kSummed, ", "));
  return {.group = group};
}

FaultyCommunicator::FaultyCommunicator(Communicator& inner, Fault fault)
    : ForwardingCommunicator(inner), fault_(std::move(fault)) {}

FaultyCommunicator::FaultyCommunicator(std::unique_ptr<Communicator> inner, Fault fault)
    : ForwardingCommunicator(std::move(inner)), fault_(std::move(fault)) {}

std::unique_ptr<Communicator> FaultyCommunicator::do_split(int color, int key, std::string name) {
  return std::make_unique<FaultyCommunicator>(inner().split(color, key, std::move(name)), fault_);
}

Event FaultyCommunicator::forward(Collective collective, Event after) {
  if (!is_faulty(collective.kind)) return run(collective, after);
  if (fault_.call == Fault::Call::kSum && fault_.effect == Fault::Effect::kDropped)
    return dropped(collective, after);
  return doubled(collective.written(), run(collective, after));
}

// Real numbers; counts and ids stay.
Event FaultyCommunicator::doubled(const std::vector<Tensor>& results, Event done) const {
  const Queue queue = backend()->compute_queue();
  backend()->wait(queue, done);
  for (const Tensor x : results)
    if (is_real(x.dtype())) backend()->ops().add(queue, x, x, x);
  return backend()->record(queue);
}

bool FaultyCommunicator::is_faulty(Collective::Kind kind) const {
  using enum Collective::Kind;
  if (size() == 1 || name() != fault_.group) return false;
  switch (fault_.call) {
    case Fault::Call::kSum:
      return kind == kAllReduceSum || kind == kReduceScatterSum;
    case Fault::Call::kExchange:
      return kind == kAllToAll;
    case Fault::Call::kMessage:
      break;
  }
  return kind == kMessages;
}

// My own part is left: that of an all-reduce is there already.
Event FaultyCommunicator::dropped(const Collective& sum, Event after) const {
  if (sum.kind == Collective::Kind::kAllReduceSum) return after;
  const int64_t begin =
      std::accumulate(sum.counts.begin(), sum.counts.begin() + rank(), int64_t{0});
  const Queue queue = backend()->compute_queue();
  backend()->wait(queue, after);
  if (const Tensor mine = sum.input.rows(begin, sum.out.numel()); mine.raw() != sum.out.raw())
    backend()->ops().copy(queue, sum.out, mine);
  return backend()->record(queue);
}

}  // namespace switchyard
