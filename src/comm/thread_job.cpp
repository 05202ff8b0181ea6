#include "comm/thread_job.h"

#include <algorithm>

namespace switchyard {

ThreadGroup& ThreadJob::subgroup(ThreadGroup& parent, int64_t split, int color, int size) {
  const Lock lock(mutex_);
  auto& group = subgroups_[{&parent, split, color}];
  if (!group) group = std::make_unique<ThreadGroup>(size);
  return *group;
}

void ThreadJob::enter(ThreadGroup& group, int rank, const std::string& who,
                      ThreadContribution contribution) {
  Lock lock(mutex_);
  throw_if_failed();
  const std::string call = contribution.call;
  group.contributions[rank] = std::move(contribution);
  group.has_arrived[rank] = true;
  note_progress();
  if (++group.num_arrived == group.size()) {
    group.num_arrived = 0;
    std::fill(group.has_arrived.begin(), group.has_arrived.end(), false);
    ++group.meetings;
    return;
  }
  const int64_t meeting = group.meetings;
  wait(
      lock, [&] { return group.meetings != meeting; },
      [&] {
        std::vector<int> missing;
        for (int other = 0; other < group.size(); ++other)
          if (!group.has_arrived[other]) missing.push_back(other);
        return fmt::format("{} waits in {} for rank(s) {}", who, call, fmt::join(missing, ", "));
      });
}

void ThreadJob::leave(ThreadGroup& group) {
  Lock lock(mutex_);
  if (++group.num_left == group.size()) {
    group.num_left = 0;
    ++group.departures;
    changed_.notify_all();
    return;
  }
  const int64_t departure = group.departures;
  changed_.wait(lock, [&] { return group.departures != departure; });
}

void ThreadJob::send(ThreadGroup& group, int from, int to, Tensor tensor) {
  const auto* bytes = static_cast<const std::byte*>(tensor.raw());
  ThreadParcel parcel{tensor.dtype(), {bytes, bytes + tensor.bytes()}};
  const Lock lock(mutex_);
  group.mail[{from, to}].push_back(std::move(parcel));
  note_progress();
}

ThreadParcel ThreadJob::receive(ThreadGroup& group, int from, int to, const std::string& who) {
  Lock lock(mutex_);
  auto& box = group.mail[{from, to}];
  wait(
      lock, [&] { return !box.empty(); },
      [&] { return fmt::format("{} waits for a message of rank {}", who, from); });
  ThreadParcel parcel = std::move(box.front());
  box.pop_front();
  return parcel;
}

void ThreadJob::fail(int world_rank, const std::string& message, std::exception_ptr exception) {
  const Lock lock(mutex_);
  if (!exception_) {
    failure_ = fmt::format("rank {} failed: {}", world_rank, message);
    exception_ = exception;
  }
  changed_.notify_all();
}

void ThreadJob::rethrow_failure() const {
  if (!exception_) return;
  ExitCode code = ExitCode::kInternal;
  try {
    std::rethrow_exception(exception_);
  } catch (const Error& error) {
    code = error.code();
  } catch (...) {  // keeps kInternal
  }
  throw Error(code, failure_);
}

// The condition comes first: a meeting that is complete counts, even if a rank has failed since.
void ThreadJob::wait(Lock& lock, const std::function<bool()>& condition,
                     const std::function<std::string()>& describe_wait) {
  while (!condition()) {
    throw_if_failed();
    SY_CHECK(std::chrono::steady_clock::now() < last_progress_ + deadline_,
             "{}, and no rank has moved for {} s: deadlock", describe_wait(), deadline_.count());
    changed_.wait_until(lock, last_progress_ + deadline_);
  }
}

void ThreadJob::note_progress() {
  last_progress_ = std::chrono::steady_clock::now();
  changed_.notify_all();
}

void ThreadJob::throw_if_failed() const { SY_CHECK(!exception_, "{}", failure_); }

}  // namespace switchyard
