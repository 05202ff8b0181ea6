#include "deferred/deferred_communicator.h"

#include <utility>

namespace switchyard::test {

DeferredCommunicator::DeferredCommunicator(Communicator& world, DeferredBackend& backend)
    : DeferredCommunicator(world, nullptr, backend, world.rank(), world.name()) {}

DeferredCommunicator::DeferredCommunicator(Communicator& host, std::unique_ptr<Communicator> owned,
                                           DeferredBackend& backend, int world_rank, std::string id)
    : ForwardingCommunicator(host.split(0, host.rank(), host.name())),
      owned_host_(std::move(owned)),
      host_(host),
      deferred_(backend),
      world_rank_(world_rank),
      queue_(backend.timeline().add_queue(host.name())) {
  for (const int64_t member : host_.all_gather_host(world_rank))
    members_.push_back(static_cast<int>(member));
  id_ = fmt::format("{} of ranks {}", id, fmt::join(members_, ", "));
}

DeferredCommunicator::~DeferredCommunicator() { deferred_.timeline().close_queue(queue_); }

Communicator& DeferredCommunicator::for_host_values() {
  deferred_.timeline().run_collectives();
  return host_;
}

std::unique_ptr<Communicator> DeferredCommunicator::do_split(int color, int key, std::string name) {
  std::string id = fmt::format("{} (split {} of {})", name, num_splits_++, id_);
  std::unique_ptr<Communicator> part = for_host_values().split(color, key, std::move(name));
  Communicator& host = *part;
  return std::unique_ptr<Communicator>(
      new DeferredCommunicator(host, std::move(part), deferred_, world_rank_, std::move(id)));
}

Event DeferredCommunicator::forward(Collective collective, Event after) {
  Work work = {.name = collective.name()};
  const auto add = [&](const std::vector<Access>& more) {
    work.accesses.insert(work.accesses.end(), more.begin(), more.end());
  };
  for (const Tensor tensor : collective.written()) add(accesses_of({tensor}, {}));
  for (const Tensor tensor : collective.read()) add(accesses_of({}, {tensor}));

  IssuedCollective issued = {.communicator = id_, .call = collective.name()};
  if (collective.kind == Collective::Kind::kMessages) {
    issued.sends_to = world_ranks(collective.sends);
    issued.receives_from = world_ranks(collective.receives);
  } else {
    issued.members = members_;
  }
  work.run = [this, collective = std::move(collective)] { run(collective, {}); };
  return deferred_.defer_collective(queue_, std::move(work), after, std::move(issued));
}

std::vector<int> DeferredCommunicator::world_ranks(std::span<const Message> messages) const {
  std::vector<int> ranks;
  for (const Message& message : messages)
    ranks.push_back(members_[static_cast<size_t>(message.peer)]);
  return ranks;
}

}  // namespace switchyard::test
