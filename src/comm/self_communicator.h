// SelfCommunicator: a group of one rank. Collectives copy, so that no code asks `if (size > 1)`:
// host memory at once, a backend's as work of its compute queue.
#pragma once

#include "comm/communicator.h"

namespace switchyard {

class SelfCommunicator final : public Communicator {
 public:
  explicit SelfCommunicator(std::string name) : Communicator(0, 1, std::move(name)) {}

 private:
  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override;
  Event do_reduce_scatter_sum(Tensor out, Tensor input, std::span<const int64_t> counts,
                              Event after) override;
  Event do_all_gather(Tensor out, Tensor input, std::span<const int64_t> counts,
                      Event after) override;
  Event do_all_to_all(Tensor out, std::span<const int64_t> receive_rows, Tensor input,
                      std::span<const int64_t> send_rows, Event after) override;
  Event do_broadcast(Tensor x, int root, Event after) override;
  Event do_send_receive(std::span<const Message> sends, std::span<const Message> receives,
                        Event after) override;
  Communicator& for_host_values() override;

  Event copy(Tensor out, Tensor input, Event after) const;

  std::unique_ptr<SelfCommunicator> of_host_values_;
};

}  // namespace switchyard
