#include "verify/faulty_communicator.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

namespace switchyard {
namespace {

void double_in_place(Tensor x) {
  if (x.dtype() == DType::kF64)
    for (double& value : x.flat().span<double>()) value *= 2;
  else if (x.dtype() == DType::kF32)
    for (float& value : x.flat().span<float>()) value *= 2;
  else if (x.dtype() == DType::kBF16)
    for (BFloat16& value : x.flat().span<BFloat16>())
      value = BFloat16(2 * static_cast<float>(value));
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
    : Communicator(inner.rank(), inner.size(), inner.name()),
      inner_(inner),
      fault_(std::move(fault)) {}

FaultyCommunicator::FaultyCommunicator(std::unique_ptr<Communicator> inner, Fault fault)
    : Communicator(inner->rank(), inner->size(), inner->name()),
      owned_(std::move(inner)),
      inner_(*owned_),
      fault_(std::move(fault)) {}

void FaultyCommunicator::use(Backend& backend) {
  Communicator::use(backend);
  inner_.use(backend);
}

bool FaultyCommunicator::is_faulty(Fault::Call call) const {
  return size() > 1 && name() == fault_.group && call == fault_.call;
}

// Of real numbers; counts and ids stay.
Event FaultyCommunicator::doubled(Tensor x, Event done) const {
  finish(done);
  double_in_place(x);
  return done;
}

std::unique_ptr<Communicator> FaultyCommunicator::do_split(int color, int key, std::string name) {
  return std::make_unique<FaultyCommunicator>(inner_.split(color, key, std::move(name)), fault_);
}

Event FaultyCommunicator::do_all_reduce_sum(Tensor x, Event after) {
  if (!is_faulty(Fault::Call::kSum)) return inner_.all_reduce_sum(x, after);
  if (fault_.effect == Fault::Effect::kDropped) return after;
  return doubled(x, inner_.all_reduce_sum(x, after));
}

Event FaultyCommunicator::do_reduce_scatter_sum(Tensor out, Tensor input,
                                                std::span<const int64_t> counts, Event after) {
  if (!is_faulty(Fault::Call::kSum)) return inner_.reduce_scatter_rows(out, input, counts, after);
  if (fault_.effect == Fault::Effect::kDoubled)
    return doubled(out, inner_.reduce_scatter_rows(out, input, counts, after));
  finish(after);
  const int64_t begin = std::accumulate(counts.begin(), counts.begin() + rank(), int64_t{0});
  std::memmove(out.raw(), input.rows(begin, out.numel()).raw(), static_cast<size_t>(out.bytes()));
  return after;
}

Event FaultyCommunicator::do_all_gather(Tensor out, Tensor input, std::span<const int64_t> counts,
                                        Event after) {
  return inner_.all_gather_rows(out, input, counts, after);
}

Event FaultyCommunicator::do_all_to_all(Tensor out, std::span<const int64_t> receive_rows,
                                        Tensor input, std::span<const int64_t> send_rows,
                                        Event after) {
  const Event done = inner_.all_to_all(out, receive_rows, input, send_rows, after);
  return is_faulty(Fault::Call::kExchange) ? doubled(out, done) : done;
}

Event FaultyCommunicator::do_broadcast(Tensor x, int root, Event after) {
  return inner_.broadcast(x, root, after);
}

Event FaultyCommunicator::do_send_receive(std::span<const Message> sends,
                                          std::span<const Message> receives, Event after) {
  const Event done = inner_.send_receive(sends, receives, after);
  if (is_faulty(Fault::Call::kMessage))
    for (const Message& message : receives) doubled(message.tensor, done);
  return done;
}

}  // namespace switchyard
