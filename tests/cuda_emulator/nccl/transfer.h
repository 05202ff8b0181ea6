// Transfer: one message on its way through a channel, as one of its two ends sees it.
#pragma once

#include "nccl/group.h"

namespace cuda_emulator::nccl {

class Transfer {
 public:
  // `memory` is on the device, or the emulator's own. `peer` is the other end; `what` is announced
  // by the sender and expected by the receiver, which stops the test when they differ.
  Transfer(const Group& group, bool is_send, int peer, void* memory, MessageHead what);

  // Moves what can be moved now; whether anything was.
  bool advance();
  bool is_done() const { return state_ == State::kDone; }
  int peer() const { return peer_; }
  bool is_send() const { return is_send_; }
  const MessageHead& what() const { return what_; }

 private:
  enum class State { kWaits, kMoves, kDone };
  bool begin();
  bool move_piece();
  void check_announced() const;

  const Group& group_;
  Channel& channel_;
  bool is_send_;
  int peer_;
  std::byte* memory_;
  MessageHead what_;
  uint64_t moved_ = 0;  // bytes
  State state_ = State::kWaits;
};

}  // namespace cuda_emulator::nccl
