// FaultyCommunicator: passes everything on to another communicator, except for one planted fault.
// For tests: a proof that compares grids must fail when a reduction is wrong, and say which.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace switchyard {

// In every group of the grid called `group`, unless it has one rank only.
struct Fault {
  enum class Call { kSum, kExchange, kMessage };  // reductions; all-to-all; send_receive
  enum class Effect { kDoubled, kDropped };       // what arrives; sums only: my own part instead

  std::string group;
  Call call = Call::kSum;
  Effect effect = Effect::kDoubled;
};

// The fault of `--plant-fault GROUP`: what the group carries most arrives doubled. kConfig for a
// name that is no group of the grid.
Fault fault_in(const std::string& group);

class FaultyCommunicator final : public Communicator {
 public:
  FaultyCommunicator(Communicator& inner, Fault fault);
  FaultyCommunicator(std::unique_ptr<Communicator> inner, Fault fault);

  void use(Backend& backend) override;

 private:
  bool is_faulty(Fault::Call call) const;
  Event doubled(Tensor x, Event done) const;

  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override;
  Event do_all_reduce_sum(Tensor x, Event after) override;
  Event do_reduce_scatter_sum(Tensor out, Tensor input, std::span<const int64_t> counts,
                              Event after) override;
  Event do_all_gather(Tensor out, Tensor input, std::span<const int64_t> counts,
                      Event after) override;
  Event do_all_to_all(Tensor out, std::span<const int64_t> receive_rows, Tensor input,
                      std::span<const int64_t> send_rows, Event after) override;
  Event do_broadcast(Tensor x, int root, Event after) override;
  Event do_send_receive(std::span<const Message> sends, std::span<const Message> receives,
                        Event after) override;

  std::unique_ptr<Communicator> owned_;
  Communicator& inner_;
  Fault fault_;
};

}  // namespace switchyard
