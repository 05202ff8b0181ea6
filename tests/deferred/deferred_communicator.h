// DeferredCommunicator: queues the collectives of another communicator on a queue of its own, as
// NCCL does on a stream. Made of the world of a rank; groups split off from it are deferred too.
//
// Like NCCL's, its tensors and its host values travel apart: the _host functions are done at once
// on the communicator given, tensors go through another group of the same ranks. Before host values
// travel, all collectives asked for so far run: on threads both kinds block, so they have to come
// in the order in which the rank asked for them.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "deferred/deferred_backend.h"

namespace switchyard::test {

class DeferredCommunicator final : public Communicator {
 public:
  // Collective. `world` blocks (it has no backend); both are kept by reference.
  DeferredCommunicator(Communicator& world, DeferredBackend& backend);
  ~DeferredCommunicator() override;
  DeferredCommunicator(const DeferredCommunicator&) = delete;
  DeferredCommunicator& operator=(const DeferredCommunicator&) = delete;

 private:
  DeferredCommunicator(Communicator& host, std::unique_ptr<Communicator> owned,
                       DeferredBackend& backend, int world_rank, std::string id);

  Communicator& for_host_values() override;
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

  Event defer(const char* call, std::vector<Access> accesses, Event after,
              std::function<void()> run);
  std::vector<int> world_ranks(std::span<const Message> messages) const;

  std::unique_ptr<Communicator> owned_;
  Communicator& host_;
  std::unique_ptr<Communicator> tensors_;
  DeferredBackend& deferred_;
  std::string id_;            // the same on all its ranks, and no other group's
  int world_rank_;            // mine
  std::vector<int> members_;  // ranks of the world
  int num_splits_ = 0;
  int queue_;
};

}  // namespace switchyard::test
