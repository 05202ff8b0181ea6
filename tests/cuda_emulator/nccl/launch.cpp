#include "nccl/launch.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/engine.h"
#include "nccl/reduction.h"
#include "nccl/waiting.h"
#include "runtime/stream.h"

namespace cuda_emulator::nccl {
namespace {

// How long others may take without a word, and how often they are looked at then.
constexpr std::chrono::milliseconds kPatience{5}, kLookEvery{5};
// Until a test is stopped in which nothing moves; in which a rank is lost, and nobody has aborted
// the communicator.
constexpr std::chrono::seconds kGivesUpAfter{60}, kGivesUpAlone{3};

bool is_message(const Call& call) {
  return call.shape.kind == CallKind::kSend || call.shape.kind == CallKind::kReceive;
}

uint64_t bytes_of(const Call& call) {
  return call.shape.count * size_in_bytes(static_cast<ncclDataType_t>(call.shape.type));
}

const std::byte* nth_part(const void* memory, int n, uint64_t bytes) {
  return static_cast<const std::byte*>(memory) + static_cast<uint64_t>(n) * bytes;
}

void copy_on_device(void* to, const void* from, uint64_t bytes) {
  if (to != from && bytes > 0) copy_noted(to, from, bytes);
}

}  // namespace

GroupLaunch::GroupLaunch(LaunchContext& context, std::vector<Call> calls, bool is_counted)
    : context_(context), is_counted_(is_counted) {
  for (Call& call : calls) (is_message(call) ? messages_ : collectives_).push_back(call);
  if (is_counted_) ++context_.num_running;
}

bool GroupLaunch::advance() {
  if (phase_ == Phase::kBegin) moved_ = Clock::now();
  bool has_moved = false;
  while (!context_.is_aborted && phase_ != Phase::kDone && step()) has_moved = true;
  const bool is_done = context_.is_aborted || phase_ == Phase::kDone;
  if (has_moved || is_done) {
    moved_ = looked_ = Clock::now();
    report_moving();
  } else if (Clock::now() - std::max(moved_, looked_) > kLookEvery) {
    looked_ = Clock::now();
    if (looked_ - moved_ > kPatience) look_at_others();
  }
  if (is_done) phase_ = Phase::kBegin;
  if (is_done && std::exchange(is_counted_, false)) --context_.num_running;
  return is_done;
}

bool GroupLaunch::step() {
  switch (phase_) {
    case Phase::kBegin:
      begin();
      return true;
    case Phase::kMessages:
    case Phase::kParts:
      return advance_transfers();
    case Phase::kAgreement:
      return agree();
    case Phase::kDone:
      break;
  }
  return false;
}

void GroupLaunch::begin() {
  next_ = 0;
  transfers_.clear();
  for (const Call& call : messages_) {
    const bool is_send = call.shape.kind == CallKind::kSend;
    uint64_t& so_far = (is_send ? context_.sent : context_.received)[call.peer];
    transfers_.emplace_back(*context_.group, is_send, call.peer,
                            is_send ? const_cast<void*>(call.send) : call.receive,
                            MessageHead{call.shape, ++so_far, bytes_of(call)});
  }
  phase_ = Phase::kMessages;
}

// Messages between the same two ranks travel one after another.
bool GroupLaunch::advance_transfers() {
  bool has_moved = false, all_done = true;
  std::vector<bool> busy(2 * static_cast<size_t>(context_.group->size()), false);
  for (Transfer& transfer : transfers_) {
    if (transfer.is_done()) continue;
    const size_t way = 2 * static_cast<size_t>(transfer.peer()) + (transfer.is_send() ? 1 : 0);
    if (!busy[way] && transfer.advance()) has_moved = true;
    busy[way] = busy[way] || !transfer.is_done();
    all_done = all_done && transfer.is_done();
  }
  if (!all_done) return has_moved;
  if (phase_ == Phase::kParts) finish_parts();
  transfers_.clear();
  start_collective();
  return true;
}

void GroupLaunch::start_collective() {
  if (next_ == collectives_.size()) {
    phase_ = Phase::kDone;
    return;
  }
  GroupMember& me = context_.group->me();
  const uint64_t number = ++context_.num_collectives;
  me.calls[number % 2] = collective().shape;
  me.called.store(number, std::memory_order_release);
  phase_ = Phase::kAgreement;
}

bool GroupLaunch::agree() {
  const Group& group = *context_.group;
  const uint64_t number = context_.num_collectives;
  for (int r = 0; r < group.size(); ++r) {
    const GroupMember& other = group.member(r);
    if (other.called.load(std::memory_order_acquire) < number) return false;
    const CallShape& theirs = other.calls[number % 2];
    if (theirs != collective().shape)
      fail("NCCL: %s calls %s as its collective #%llu, but rank %d calls %s", context_.name.c_str(),
           nccl::describe(collective().shape).c_str(), static_cast<unsigned long long>(number), r,
           nccl::describe(theirs).c_str());
  }
  start_parts();
  phase_ = Phase::kParts;
  return true;
}

void GroupLaunch::add_part(bool is_send, int peer, const void* memory, uint64_t bytes) {
  transfers_.emplace_back(*context_.group, is_send, peer, const_cast<void*>(memory),
                          MessageHead{collective().shape, context_.num_collectives, bytes});
}

void GroupLaunch::start_parts() {
  const Call& call = collective();
  const Group& group = *context_.group;
  const int me = group.rank(), root = call.shape.root;
  const uint64_t bytes = bytes_of(call);
  const CallKind kind = call.shape.kind;
  const bool is_reduction = kind == CallKind::kAllReduce || kind == CallKind::kReduceScatter;
  const bool in_slices = kind == CallKind::kReduceScatter;
  contributions_.assign(is_reduction ? static_cast<size_t>(group.size()) : 0, {});
  for (int step = 1; step < group.size(); ++step) {
    const int peer = (me + step) % group.size();
    if (is_reduction) {
      contributions_[peer].resize(bytes);
      add_part(true, peer, in_slices ? nth_part(call.send, peer, bytes) : call.send, bytes);
      add_part(false, peer, contributions_[peer].data(), bytes);
    } else if (kind == CallKind::kAllGather) {
      add_part(true, peer, call.send, bytes);
      add_part(false, peer, nth_part(call.receive, peer, bytes), bytes);
    } else if (me == root) {
      add_part(true, peer, call.send, bytes);
    }
  }
  if (kind == CallKind::kBroadcast && me != root) add_part(false, root, call.receive, bytes);
}

void GroupLaunch::finish_parts() {
  const Call& call = collective();
  const uint64_t bytes = bytes_of(call);
  const int me = context_.group->rank();
  switch (call.shape.kind) {
    case CallKind::kAllGather:
      copy_on_device(const_cast<std::byte*>(nth_part(call.receive, me, bytes)), call.send, bytes);
      break;
    case CallKind::kBroadcast:
      if (me == call.shape.root) copy_on_device(call.receive, call.send, bytes);
      break;
    default:
      reduce(call);
  }
  ++next_;
}

// All-reduce must give every rank the same bits, so it begins with rank 1 everywhere.
void GroupLaunch::reduce(const Call& call) {
  const int me = context_.group->rank(), size = context_.group->size();
  const bool in_slices = call.shape.kind == CallKind::kReduceScatter;
  const uint64_t bytes = bytes_of(call);
  const std::byte* const mine =
      in_slices ? nth_part(call.send, me, bytes) : static_cast<const std::byte*>(call.send);
  note_read(mine, bytes);
  contributions_[me].assign(mine, mine + bytes);
  const int first = in_slices ? (me + 1) % size : 1 % size;
  std::vector<std::byte>& total = contributions_[first];
  const auto type = static_cast<ncclDataType_t>(call.shape.type);
  const auto op = static_cast<ncclRedOp_t>(call.shape.op);
  for (int step = 1; step < size; ++step)
    reduce_into(total.data(), contributions_[(first + step) % size].data(), call.shape.count, type,
                op);
  if (op == ncclAvg) divide(total.data(), call.shape.count, type, size);
  note_write(call.receive, bytes);
  std::memcpy(call.receive, total.data(), bytes);
}

std::vector<int> GroupLaunch::missing_ranks() const {
  std::vector<int> missing;
  if (phase_ == Phase::kAgreement) {
    for (int r = 0; r < context_.group->size(); ++r)
      if (context_.group->member(r).called.load() < context_.num_collectives) missing.push_back(r);
  }
  for (const Transfer& transfer : transfers_)
    if (!transfer.is_done() &&
        std::find(missing.begin(), missing.end(), transfer.peer()) == missing.end())
      missing.push_back(transfer.peer());
  return missing;
}

void GroupLaunch::look_at_others() {
  const std::vector<int> missing = missing_ranks();
  std::vector<SharedMemoryName> pages;
  for (const int rank : missing) pages.push_back(context_.group->member(rank).page);
  if (const auto circle = report_waiting(describe_wait(missing), pages))
    fail("NCCL: ranks wait for each other:%s", circle->c_str());
  if (context_.async_error == ncclSuccess) {
    if (const auto lost = context_.group->find_lost_rank()) {
      context_.error_text = *lost;
      context_.async_error = ncclRemoteError;
    }
  }
  const bool is_alone = context_.async_error != ncclSuccess;
  if (Clock::now() - moved_ < (is_alone ? kGivesUpAlone : kGivesUpAfter)) return;
  std::string others;
  for (size_t i = 0; i < missing.size(); ++i)
    others += "\n  rank " + std::to_string(missing[i]) + ": " + describe_process(pages[i]);
  fail("NCCL: nothing moves in %s%s", describe_wait(missing).c_str(), others.c_str());
}

std::string GroupLaunch::describe_wait(const std::vector<int>& missing) const {
  std::string text = context_.name + " in " + describe() + ", waits for rank";
  for (const int rank : missing) text += " " + std::to_string(rank);
  return text;
}

std::string GroupLaunch::describe() const {
  if (phase_ == Phase::kAgreement || phase_ == Phase::kParts)
    return nccl::describe(collective().shape) + " (collective #" +
           std::to_string(context_.num_collectives) + ")";
  for (const Transfer& transfer : transfers_)
    if (!transfer.is_done())
      return nccl::describe(transfer.what().shape) + " #" + std::to_string(transfer.what().number) +
             (transfer.is_send() ? " to" : " from") + " rank " + std::to_string(transfer.peer()) +
             " (one of " + std::to_string(messages_.size()) + " messages of its group)";
  return "a group of " + std::to_string(messages_.size()) + " messages";
}

}  // namespace cuda_emulator::nccl
