#include "comm/self_communicator.h"

#include "backend/ops.h"
#include "comm/host_memory.h"

namespace switchyard {

std::unique_ptr<Communicator> SelfCommunicator::do_split(int, int, std::string name) {
  return std::make_unique<SelfCommunicator>(std::move(name));
}

// On a device it is work of the compute queue, which `after` comes before.
Event SelfCommunicator::copy(Tensor out, Tensor input, Event after) const {
  if (backend() == nullptr) {
    copy_host(out, input);
    return after;
  }
  if (out.bytes() == 0 || out.raw() == input.raw()) return after;
  const Queue queue = backend()->compute_queue();
  backend()->wait(queue, after);
  backend()->ops().copy(queue, out.flat(), input.flat());
  return backend()->record(queue);
}

Communicator& SelfCommunicator::for_host_values() {
  if (backend() == nullptr) return *this;
  if (!of_host_values_) of_host_values_ = std::make_unique<SelfCommunicator>(name());
  return *of_host_values_;
}

Event SelfCommunicator::do_reduce_scatter_sum(Tensor out, Tensor input, std::span<const int64_t>,
                                              Event after) {
  return copy(out, input, after);
}

Event SelfCommunicator::do_all_gather(Tensor out, Tensor input, std::span<const int64_t>,
                                      Event after) {
  return copy(out, input, after);
}

Event SelfCommunicator::do_all_to_all(Tensor out, std::span<const int64_t>, Tensor input,
                                      std::span<const int64_t>, Event after) {
  return copy(out, input, after);
}

Event SelfCommunicator::do_broadcast(Tensor, int, Event after) { return after; }

Event SelfCommunicator::do_send_receive(std::span<const Message> sends,
                                        std::span<const Message> receives, Event after) {
  SY_CHECK(sends.size() == receives.size(), "{}: {} messages sent to myself, {} received", name(),
           sends.size(), receives.size());
  for (size_t i = 0; i < sends.size(); ++i) {
    const Tensor sent = sends[i].tensor, received = receives[i].tensor;
    SY_CHECK(sent.dtype() == received.dtype() && sent.numel() == received.numel(),
             "{}: message {} to myself is {} {}, received as {} {}", name(), i,
             name_of(sent.dtype()), sent.shape_string(), name_of(received.dtype()),
             received.shape_string());
    after = copy(received, sent, after);
  }
  return after;
}

}  // namespace switchyard
