// GroupLaunch: what one group of calls does on one communicator, a single kernel in NCCL. Its
// messages move together; then its collectives run one after another. It is over on a rank when all
// of that is.
//
// A collective starts when all ranks have called it, and stops the test when they have not called
// the same. It is made of messages, too: everybody's part to whoever needs it. Reductions round at
// every step, in an order that begins with another rank on each: NCCL promises no better.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "nccl/group.h"
#include "nccl/transfer.h"

namespace cuda_emulator::nccl {

struct Call {
  CallShape shape;
  int peer = 0;  // of a message
  const void* send = nullptr;
  void* receive = nullptr;
};

// What is left of a communicator for its launches, which may outlive it.
struct LaunchContext {
  Group* group = nullptr;
  std::string name;                      // "rank 1 of 4 of ep"
  std::atomic<int> async_error = 0;      // an ncclResult_t
  std::string error_text;                // why
  std::atomic<bool> is_aborted = false;  // its kernels end at once
  std::vector<uint64_t> sent, received;  // messages so far, by peer
  uint64_t num_collectives = 0;
  std::atomic<int> num_running = 0;  // on streams, not done
};

class GroupLaunch {
 public:
  // `is_counted`: it runs once and counts among those that are running.
  GroupLaunch(LaunchContext& context, std::vector<Call> calls, bool is_counted);

  // True when all is done; a call after that does it all again. Stops the test when ranks do not
  // fit together, or wait for each other.
  bool advance();
  std::string describe() const;

 private:
  using Clock = std::chrono::steady_clock;
  enum class Phase { kBegin, kMessages, kAgreement, kParts, kDone };

  bool step();  // whether anything moved
  void begin();
  bool advance_transfers();
  void start_collective();
  bool agree();
  void start_parts();
  void add_part(bool is_send, int peer, const void* memory, uint64_t bytes);
  void finish_parts();
  void reduce(const Call& call);
  const Call& collective() const { return collectives_[next_]; }
  std::vector<int> missing_ranks() const;
  void look_at_others();
  std::string describe_wait(const std::vector<int>& missing) const;

  LaunchContext& context_;
  std::vector<Call> messages_, collectives_;
  bool is_counted_;
  Phase phase_ = Phase::kBegin;
  size_t next_ = 0;  // collective
  std::vector<Transfer> transfers_;
  std::vector<std::vector<std::byte>> contributions_;  // to a reduction, by rank
  Clock::time_point moved_, looked_;
};

}  // namespace cuda_emulator::nccl
