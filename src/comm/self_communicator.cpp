#include "comm/self_communicator.h"

#include "comm/host_memory.h"

namespace switchyard {

std::unique_ptr<Communicator> SelfCommunicator::do_split(int, int, std::string name) {
  return std::make_unique<SelfCommunicator>(std::move(name));
}

Event SelfCommunicator::do_reduce_scatter_sum(Tensor out, Tensor input, std::span<const int64_t>,
                                              Event after) {
  finish(after);
  copy_host(out, input);
  return after;
}

Event SelfCommunicator::do_all_gather(Tensor out, Tensor input, std::span<const int64_t>,
                                      Event after) {
  finish(after);
  copy_host(out, input);
  return after;
}

Event SelfCommunicator::do_all_to_all(Tensor out, std::span<const int64_t>, Tensor input,
                                      std::span<const int64_t>, Event after) {
  finish(after);
  copy_host(out, input);
  return after;
}

Event SelfCommunicator::do_broadcast(Tensor, int, Event after) {
  finish(after);
  return after;
}

Event SelfCommunicator::do_send_receive(std::span<const Message> sends,
                                        std::span<const Message> receives, Event after) {
  finish(after);
  SY_CHECK(sends.size() == receives.size(), "{}: {} messages sent to myself, {} received", name(),
           sends.size(), receives.size());
  for (size_t i = 0; i < sends.size(); ++i) {
    const Tensor sent = sends[i].tensor, received = receives[i].tensor;
    SY_CHECK(sent.dtype() == received.dtype() && sent.numel() == received.numel(),
             "{}: message {} to myself is {} {}, received as {} {}", name(), i,
             name_of(sent.dtype()), sent.shape_string(), name_of(received.dtype()),
             received.shape_string());
    copy_host(received, sent);
  }
  return after;
}

}  // namespace switchyard
