// ThreadJob: what the rank threads of run_ranks() share: the meeting points of their groups, the
// mail between them, and the first failure. Behind ThreadCommunicator; tests only.
//
// A collective is enter(), read the others' contributions, leave(). Whoever fails between the two
// still leaves, so that nobody's memory goes away while others read it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace switchyard {

// What one rank brings to a collective.
struct ThreadContribution {
  std::string call = {};  // "all_gather of f64 (3)": must be the same on all ranks of the group
  Tensor input = {};
  std::span<const int64_t> send_rows = {};
  int color = 0, key = 0;
};

// A message under way; send_receive copies, so that senders never wait.
struct ThreadParcel {
  DType dtype = DType::kU8;
  std::vector<std::byte> bytes = {};
};

// The ranks of one communicator.
struct ThreadGroup {
  explicit ThreadGroup(int size) : contributions(size), has_arrived(size, false) {}
  int size() const { return static_cast<int>(contributions.size()); }

  std::vector<ThreadContribution> contributions;  // written in enter(), constant until all leave()
  std::vector<bool> has_arrived;
  int num_arrived = 0, num_left = 0;
  int64_t meetings = 0, departures = 0;                          // completed so far
  std::map<std::pair<int, int>, std::deque<ThreadParcel>> mail;  // by (from, to)
};

class ThreadJob {
 public:
  ThreadJob(int num_ranks, double deadline_s) : deadline_(deadline_s), world_(num_ranks) {}

  ThreadGroup& world() { return world_; }
  // The group of the ranks of `parent` that chose `color` in its split number `split`; made by
  // whichever of them asks first.
  ThreadGroup& subgroup(ThreadGroup& parent, int64_t split, int color, int size);

  // Returns when all ranks of the group have entered. `who` is for messages. Throws if any rank of
  // the job has failed, or if none has moved for the length of the deadline.
  void enter(ThreadGroup& group, int rank, const std::string& who, ThreadContribution contribution);
  // Returns when all ranks of the group have come here. All are on their way.
  void leave(ThreadGroup& group);

  void send(ThreadGroup& group, int from, int to, Tensor tensor);
  // Waits and throws as enter() does.
  ThreadParcel receive(ThreadGroup& group, int from, int to, const std::string& who);

  // The rank of world that failed, and how. The first failure counts.
  void fail(int world_rank, const std::string& message, std::exception_ptr exception);
  // Rethrows the first failure as an Error with the rank in its message. After all threads ended.
  void rethrow_failure() const;

 private:
  using Lock = std::unique_lock<std::mutex>;
  void wait(Lock& lock, const std::function<bool()>& condition,
            const std::function<std::string()>& describe_wait);
  void note_progress();
  void throw_if_failed() const;

  const std::chrono::duration<double> deadline_;
  std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;
  std::chrono::steady_clock::time_point last_progress_ = std::chrono::steady_clock::now();
  ThreadGroup world_;
  std::map<std::tuple<ThreadGroup*, int64_t, int>, std::unique_ptr<ThreadGroup>> subgroups_;
  std::string failure_;  // "rank 2 failed: ..."
  std::exception_ptr exception_;
};

}  // namespace switchyard
