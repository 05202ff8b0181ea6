// DeferredCommunicator: queues the collectives of another communicator on a queue of its own, as
// NCCL does on a stream. Made of the world of a rank; groups split off from it are deferred too.
//
// Like NCCL's, its tensors and its host values travel apart: the _host functions are done at once
// on the communicator given, tensors go through another group of the same ranks. Before host values
// travel, all collectives asked for so far run: on threads both kinds block, so they have to come
// in the order in which the rank asked for them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/forwarding_communicator.h"
#include "deferred/deferred_backend.h"

namespace switchyard::test {

class DeferredCommunicator final : public ForwardingCommunicator {
 public:
  // Collective. `world` blocks (it has no backend); both are kept by reference.
  DeferredCommunicator(Communicator& world, DeferredBackend& backend);
  ~DeferredCommunicator() override;
  DeferredCommunicator(const DeferredCommunicator&) = delete;
  DeferredCommunicator& operator=(const DeferredCommunicator&) = delete;

  // Not for the group that carries the tensors, which goes on to block.
  void use(Backend& backend) override { Communicator::use(backend); }

 private:
  DeferredCommunicator(Communicator& host, std::unique_ptr<Communicator> owned,
                       DeferredBackend& backend, int world_rank, std::string id);

  Communicator& for_host_values() override;
  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override;
  Event forward(Collective collective, Event after) override;

  std::vector<int> world_ranks(std::span<const Message> messages) const;

  std::unique_ptr<Communicator> owned_host_;
  Communicator& host_;
  DeferredBackend& deferred_;
  std::string id_;            // the same on all its ranks, and no other group's
  int world_rank_;            // mine
  std::vector<int> members_;  // ranks of the world
  int num_splits_ = 0;
  int queue_;
};

}  // namespace switchyard::test
