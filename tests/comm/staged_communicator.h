// StagedCommunicator: lets tests of collectives with tensors in host memory run on a communicator
// whose tensors are on a device. Each call copies what it is given there, waits, and copies back
// what was written; tensors that overlap here overlap there.
#pragma once

#include "comm/forwarding_communicator.h"

namespace switchyard::test {

class StagedCommunicator final : public ForwardingCommunicator {
 public:
  // `inner` uses `backend`.
  StagedCommunicator(std::unique_ptr<Communicator> inner, Backend& backend)
      : ForwardingCommunicator(std::move(inner)), device_(backend), memory_(backend) {}

 private:
  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override;
  Event forward(Collective collective, Event after) override;

  Backend& device_;
  Arena memory_;
};

}  // namespace switchyard::test
