#include "comm/forwarding_communicator.h"

#include <utility>

namespace switchyard {
namespace {

using Kind = Collective::Kind;

template <typename T>
std::vector<T> copy_of(std::span<const T> values) {
  return {values.begin(), values.end()};
}

std::vector<Tensor> tensors_of(Tensor tensor, const std::vector<Message>& messages) {
  std::vector<Tensor> tensors;
  if (!tensor.is_none()) tensors.push_back(tensor);
  for (const Message& message : messages) tensors.push_back(message.tensor);
  return tensors;
}

}  // namespace

const char* Collective::name() const {
  switch (kind) {
    case Kind::kAllReduceSum:
      return "all_reduce_sum";
    case Kind::kReduceScatterSum:
      return "reduce_scatter_sum";
    case Kind::kAllGather:
      return "all_gather";
    case Kind::kAllToAll:
      return "all_to_all";
    case Kind::kBroadcast:
      return "broadcast";
    case Kind::kMessages:
      break;
  }
  return "send_receive";
}

std::vector<Tensor> Collective::written() const { return tensors_of(out, receives); }
std::vector<Tensor> Collective::read() const { return tensors_of(input, sends); }

ForwardingCommunicator::ForwardingCommunicator(Communicator& inner)
    : Communicator(inner.rank(), inner.size(), inner.name()), inner_(inner) {}

ForwardingCommunicator::ForwardingCommunicator(std::unique_ptr<Communicator> inner)
    : Communicator(inner->rank(), inner->size(), inner->name()),
      owned_(std::move(inner)),
      inner_(*owned_) {}

void ForwardingCommunicator::use(Backend& backend) {
  Communicator::use(backend);
  inner_.use(backend);
}

Communicator& ForwardingCommunicator::for_host_values() {
  Communicator& carrier = for_host_values_of(inner_);
  return &carrier == &inner_ ? *this : carrier;
}

Event ForwardingCommunicator::run(const Collective& collective, Event after) const {
  const Tensor out = collective.out, input = collective.input;
  switch (collective.kind) {
    case Kind::kAllReduceSum:
      return inner_.all_reduce_sum(out, after);
    case Kind::kReduceScatterSum:
      return inner_.reduce_scatter_rows(out, input, collective.counts, after);
    case Kind::kAllGather:
      return inner_.all_gather_rows(out, input, collective.counts, after);
    case Kind::kAllToAll:
      return inner_.all_to_all(out, collective.counts, input, collective.send_counts, after);
    case Kind::kBroadcast:
      return inner_.broadcast(out, collective.root, after);
    case Kind::kMessages:
      break;
  }
  return inner_.send_receive(collective.sends, collective.receives, after);
}

Event ForwardingCommunicator::do_all_reduce_sum(Tensor x, Event after) {
  return forward({.kind = Kind::kAllReduceSum, .out = x}, after);
}

Event ForwardingCommunicator::do_reduce_scatter_sum(Tensor out, Tensor input,
                                                    std::span<const int64_t> counts, Event after) {
  return forward(
      {.kind = Kind::kReduceScatterSum, .out = out, .input = input, .counts = copy_of(counts)},
      after);
}

Event ForwardingCommunicator::do_all_gather(Tensor out, Tensor input,
                                            std::span<const int64_t> counts, Event after) {
  return forward({.kind = Kind::kAllGather, .out = out, .input = input, .counts = copy_of(counts)},
                 after);
}

Event ForwardingCommunicator::do_all_to_all(Tensor out, std::span<const int64_t> receive_rows,
                                            Tensor input, std::span<const int64_t> send_rows,
                                            Event after) {
  return forward({.kind = Kind::kAllToAll,
                  .out = out,
                  .input = input,
                  .counts = copy_of(receive_rows),
                  .send_counts = copy_of(send_rows)},
                 after);
}

Event ForwardingCommunicator::do_broadcast(Tensor x, int root, Event after) {
  return forward({.kind = Kind::kBroadcast, .out = x, .root = root}, after);
}

Event ForwardingCommunicator::do_send_receive(std::span<const Message> sends,
                                              std::span<const Message> receives, Event after) {
  return forward({.kind = Kind::kMessages, .sends = copy_of(sends), .receives = copy_of(receives)},
                 after);
}

}  // namespace switchyard
