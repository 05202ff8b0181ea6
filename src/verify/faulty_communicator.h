// FaultyCommunicator: passes everything on to another communicator, except for one planted fault.
// For tests: a proof that compares grids must fail when a reduction is wrong, and say which.
#pragma once

#include <memory>
#include <string>

#include "comm/forwarding_communicator.h"

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

// Needs a backend (use), which spoils the tensors.
class FaultyCommunicator final : public ForwardingCommunicator {
 public:
  FaultyCommunicator(Communicator& inner, Fault fault);
  FaultyCommunicator(std::unique_ptr<Communicator> inner, Fault fault);

 private:
  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override;
  Event forward(Collective collective, Event after) override;

  bool is_faulty(Collective::Kind kind) const;
  Event doubled(const std::vector<Tensor>& results, Event done) const;
  Event dropped(const Collective& sum, Event after) const;

  Fault fault_;
};

}  // namespace switchyard
