// ForwardingCommunicator: stands before another communicator of the same ranks, the inner one, and
// hands every collective on to it. Each becomes a value, a Collective, and all pass through one
// function, forward(): a derived class overrides it to check, spoil or put off what it is given.
//
// Sizes are checked and traffic is counted before forward() is called. Values of the _host
// functions come by, too, as collectives of integers, doubles or bytes, unless the inner
// communicator or the derived class has them carried elsewhere (for_host_values). What is split off
// is what its do_split() returns.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace switchyard {

// One call, with copies of its counts: it may be kept and run later.
struct Collective {
  enum class Kind {
    kAllReduceSum,
    kReduceScatterSum,
    kAllGather,
    kAllToAll,
    kBroadcast,
    kMessages
  };

  Kind kind;
  Tensor out = {}, input = {};  // all-reduce and broadcast work in `out`; messages have neither
  // [size], by rank. Elements of each slice of a reduce-scatter or an all-gather, whose tensors are
  // flat; rows received in an all-to-all. Empty for the others.
  std::vector<int64_t> counts = {};
  std::vector<int64_t> send_counts = {};  // [size], rows sent in an all-to-all
  int root = 0;                           // of a broadcast
  std::vector<Message> sends = {}, receives = {};

  const char* name() const;  // "all_reduce_sum", ..., as Communicator has it
  // What it writes (and may read as well), and what it only reads.
  std::vector<Tensor> written() const;
  std::vector<Tensor> read() const;
};

class ForwardingCommunicator : public Communicator {
 public:
  void use(Backend& backend) override;

 protected:
  // Name, rank and size are those of `inner`, which is kept by reference, or owned.
  explicit ForwardingCommunicator(Communicator& inner);
  explicit ForwardingCommunicator(std::unique_ptr<Communicator> inner);

  Communicator& inner() const { return inner_; }
  Communicator& for_host_values() override;
  // The collective, on the inner communicator.
  Event run(const Collective& collective, Event after) const;

 private:
  virtual Event forward(Collective collective, Event after) { return run(collective, after); }
  bool is_marked() const final { return false; }  // the inner communicator does it

  Event do_all_reduce_sum(Tensor x, Event after) final;
  Event do_reduce_scatter_sum(Tensor out, Tensor input, std::span<const int64_t> counts,
                              Event after) final;
  Event do_all_gather(Tensor out, Tensor input, std::span<const int64_t> counts, Event after) final;
  Event do_all_to_all(Tensor out, std::span<const int64_t> receive_rows, Tensor input,
                      std::span<const int64_t> send_rows, Event after) final;
  Event do_broadcast(Tensor x, int root, Event after) final;
  Event do_send_receive(std::span<const Message> sends, std::span<const Message> receives,
                        Event after) final;

  std::unique_ptr<Communicator> owned_;
  Communicator& inner_;
};

}  // namespace switchyard
