#include "deferred/deferred_communicator.h"

#include <utility>

namespace switchyard::test {
namespace {

std::vector<int64_t> copy_of(std::span<const int64_t> counts) {
  return {counts.begin(), counts.end()};
}

}  // namespace

DeferredCommunicator::DeferredCommunicator(Communicator& world, DeferredBackend& backend)
    : DeferredCommunicator(world, nullptr, backend, world.rank(), world.name()) {}

DeferredCommunicator::DeferredCommunicator(Communicator& host, std::unique_ptr<Communicator> owned,
                                           DeferredBackend& backend, int world_rank, std::string id)
    : Communicator(host.rank(), host.size(), host.name()),
      owned_(std::move(owned)),
      host_(host),
      tensors_(host.split(0, host.rank(), host.name())),
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

Event DeferredCommunicator::do_all_reduce_sum(Tensor x, Event after) {
  return defer("all_reduce_sum", accesses_of({x}, {}), after,
               [=, this] { tensors_->all_reduce_sum(x); });
}

Event DeferredCommunicator::do_reduce_scatter_sum(Tensor out, Tensor input,
                                                  std::span<const int64_t> counts, Event after) {
  return defer(
      "reduce_scatter_sum", accesses_of({out}, {input}), after,
      [=, this, rows = copy_of(counts)] { tensors_->reduce_scatter_rows(out, input, rows); });
}

Event DeferredCommunicator::do_all_gather(Tensor out, Tensor input, std::span<const int64_t> counts,
                                          Event after) {
  return defer("all_gather", accesses_of({out}, {input}), after,
               [=, this, rows = copy_of(counts)] { tensors_->all_gather_rows(out, input, rows); });
}

Event DeferredCommunicator::do_all_to_all(Tensor out, std::span<const int64_t> receive_rows,
                                          Tensor input, std::span<const int64_t> send_rows,
                                          Event after) {
  return defer("all_to_all", accesses_of({out}, {input}), after,
               [=, this, receive = copy_of(receive_rows), send = copy_of(send_rows)] {
                 tensors_->all_to_all(out, receive, input, send);
               });
}

Event DeferredCommunicator::do_broadcast(Tensor x, int root, Event after) {
  return defer("broadcast", accesses_of({x}, {}), after,
               [=, this] { tensors_->broadcast(x, root); });
}

Event DeferredCommunicator::do_send_receive(std::span<const Message> sends,
                                            std::span<const Message> receives, Event after) {
  std::vector<Access> accesses;
  const auto add = [&](const std::vector<Access>& more) {
    accesses.insert(accesses.end(), more.begin(), more.end());
  };
  for (const Message& message : sends) add(accesses_of({}, {message.tensor}));
  for (const Message& message : receives) add(accesses_of({message.tensor}, {}));
  const std::vector<Message> sent(sends.begin(), sends.end());
  const std::vector<Message> received(receives.begin(), receives.end());
  return deferred_.defer_collective(queue_,
                                    {.name = "send_receive",
                                     .accesses = std::move(accesses),
                                     .run = [=, this] { tensors_->send_receive(sent, received); }},
                                    after,
                                    {.communicator = id_,
                                     .call = "send_receive",
                                     .sends_to = world_ranks(sends),
                                     .receives_from = world_ranks(receives)});
}

Event DeferredCommunicator::defer(const char* call, std::vector<Access> accesses, Event after,
                                  std::function<void()> run) {
  return deferred_.defer_collective(
      queue_, {.name = call, .accesses = std::move(accesses), .run = std::move(run)}, after,
      {.communicator = id_, .call = call, .members = members_});
}

std::vector<int> DeferredCommunicator::world_ranks(std::span<const Message> messages) const {
  std::vector<int> ranks;
  for (const Message& message : messages)
    ranks.push_back(members_[static_cast<size_t>(message.peer)]);
  return ranks;
}

}  // namespace switchyard::test
