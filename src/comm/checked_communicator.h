// CheckedCommunicator: the debug mode watchdog.check_collectives. Before a collective is made, all
// ranks of its group compare what they are about to call: the group, which call of it this is, its
// kind, type, sizes and root. Ranks that differ end with an Error that names both sides, instead of
// hanging, or of computing with each other's bytes.
//
// The descriptions travel from rank to rank over one communicator of the whole job, whatever group
// the call belongs to: between two ranks they arrive in the order of their calls. So collectives of
// two groups in unequal orders are found, too. (Ranks that share two groups call them in one order
// everywhere: NCCL asks for it.) Messages of send_receive have an order of their own, by sender and
// receiver; what describes them travels over a second such communicator.
//
// Nothing blocks that did not block before: a collective starts when its check has passed. Costs a
// small message to every rank of the group per call.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "comm/forwarding_communicator.h"

namespace switchyard {

class CheckedCommunicator final : public ForwardingCommunicator {
 public:
  // Collective over `world`, which is kept by reference, as are its ranks' numbers.
  explicit CheckedCommunicator(Communicator& world);

  void use(Backend& backend) override;

 private:
  // Groups of the whole job, for what describes calls.
  struct Channels {
    std::unique_ptr<Communicator> collectives, messages;
  };

  // Of a group split off: `channels` belong to the communicator of the whole job.
  CheckedCommunicator(std::unique_ptr<Communicator> inner, Channels& channels);

  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override;
  Event forward(Collective collective, Event after) override;
  Event run_messages(const Collective& messages, Event after);
  Event check_messages(const std::vector<Message>& messages, bool sends, Event after);
  int job_rank(int member) const { return static_cast<int>(members_[static_cast<size_t>(member)]); }

  Channels owned_channels_;  // empty in groups split off
  Channels& channels_;
  std::vector<int64_t> members_;  // ranks of the job, by rank here
  int64_t num_calls_ = 0;
};

}  // namespace switchyard
