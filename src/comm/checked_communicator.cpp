#include "comm/checked_communicator.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace switchyard {
namespace {

using Kind = Collective::Kind;

// What one rank tells another about a call. Plain memory: it travels as bytes.
struct CallDescription {
  int64_t group = 0, call = 0;  // the how manieth of the group
  int64_t kind = 0, dtype = 0, elements = 0, root = 0;
  // Of an all-to-all: bytes from the teller to the told, and back. Of an all-gather or
  // reduce-scatter: a hash of the slices. Otherwise 0.
  int64_t to_you = 0, from_you = 0, slices = 0;
  std::array<char, 24> group_name = {};
};

int64_t hash_of(const std::vector<int64_t>& values) {
  uint64_t hash = 0xcbf2'9ce4'8422'2325;  // FNV-1a
  for (const int64_t value : values) hash = (hash ^ static_cast<uint64_t>(value)) * 0x100'0000'01b3;
  return static_cast<int64_t>(hash);
}

int64_t row_bytes(Tensor tensor) {
  return Tensor(nullptr, tensor.dtype(), tensor.shape().subspan(1)).bytes();
}

// All but what differs from peer to peer.
CallDescription describe(const Collective& collective, const Communicator& group, int64_t call) {
  const bool sums_or_gathers =
      collective.kind == Kind::kReduceScatterSum || collective.kind == Kind::kAllGather;
  const Tensor whole =
      collective.kind == Kind::kReduceScatterSum ? collective.input : collective.out;
  CallDescription mine = {.group = static_cast<int64_t>(group.id()),
                          .call = call,
                          .kind = static_cast<int64_t>(collective.kind),
                          .dtype = static_cast<int64_t>(whole.dtype()),
                          .elements = collective.kind == Kind::kAllToAll ? 0 : whole.numel(),
                          .root = collective.root,
                          .slices = sums_or_gathers ? hash_of(collective.counts) : 0};
  std::copy_n(group.name().begin(), std::min(group.name().size(), mine.group_name.size() - 1),
              mine.group_name.begin());
  return mine;
}

std::string text_of(const CallDescription& call) {
  const Collective kind = {.kind = static_cast<Kind>(call.kind)};
  std::string text =
      fmt::format("{} of {}, call {} of group {}", kind.name(),
                  name_of(static_cast<DType>(call.dtype)), call.call, call.group_name.data());
  if (kind.kind == Kind::kAllToAll) return text;
  text += fmt::format(", {} elements", call.elements);
  if (kind.kind == Kind::kBroadcast) text += fmt::format(", from rank {}", call.root);
  return text;
}

// How the calls differ, or "".
std::string difference(const CallDescription& mine, const CallDescription& theirs) {
  const auto same = [&](auto member) { return mine.*member == theirs.*member; };
  if (!same(&CallDescription::group)) return "the groups differ";
  if (!same(&CallDescription::call)) return "a call is missing";
  if (!same(&CallDescription::kind)) return "the calls differ";
  if (!same(&CallDescription::dtype)) return "the types differ";
  if (!same(&CallDescription::elements)) return "the sizes differ";
  if (!same(&CallDescription::root)) return "the roots differ";
  if (!same(&CallDescription::slices)) return "the slices differ";
  if (mine.from_you != theirs.to_you)
    return fmt::format("it sends {} bytes where {} are expected here", theirs.to_you,
                       mine.from_you);
  if (mine.to_you != theirs.from_you)
    return fmt::format("it expects {} bytes where {} are sent from here", theirs.from_you,
                       mine.to_you);
  return "";
}

Tensor bytes_of(CallDescription& call) {
  return {&call, DType::kU8, {static_cast<int64_t>(sizeof(call))}};
}

// Done when the descriptions have arrived, agree, and what the call waits for is complete.
class Check final : public PendingWork {
 public:
  struct Pair {
    int peer = 0;  // of the whole job
    CallDescription mine, theirs = {};
  };

  Check(Backend* backend, std::string who, std::vector<Pair> pairs, Event after)
      : backend_(backend), who_(std::move(who)), pairs_(std::move(pairs)), after_(after) {}

  // Both directions with every peer.
  void exchange(Communicator& over, bool sends, bool receives) {
    std::vector<Message> out, in;
    for (Pair& pair : pairs_) {
      if (sends) out.push_back({bytes_of(pair.mine), pair.peer});
      if (receives) in.push_back({bytes_of(pair.theirs), pair.peer});
    }
    arrived_ = over.send_receive(out, in);
    compares_ = receives;
  }
  Event arrived() const { return arrived_; }

  bool advance() override {
    if (compares_) compare();
    compares_ = false;
    return backend_ == nullptr || backend_->is_complete(after_);
  }

 private:
  void compare() const {
    for (const Pair& pair : pairs_) {
      const std::string how = difference(pair.mine, pair.theirs);
      SY_CHECK(how.empty(),
               "{}: ranks call different things ({}): this rank calls {}; rank {} calls {}", who_,
               how, text_of(pair.mine), pair.peer, text_of(pair.theirs));
    }
  }

  Backend* backend_;
  const std::string who_;
  std::vector<Pair> pairs_;
  const Event after_;
  Event arrived_ = {};
  bool compares_ = true;
};

// Done when started and another event has come.
class Join final : public PendingWork {
 public:
  Join(Backend& backend, Event other) : backend_(backend), other_(other) {}
  bool advance() override { return backend_.is_complete(other_); }

 private:
  Backend& backend_;
  const Event other_;
};

Event start_check(std::unique_ptr<Check> check, Backend* backend, Event after) {
  if (backend != nullptr) {
    const Event arrived = check->arrived();
    return backend->start(std::move(check), arrived);
  }
  check->advance();  // without a backend everything blocks
  return after;
}

}  // namespace

CheckedCommunicator::CheckedCommunicator(Communicator& world)
    : ForwardingCommunicator(world),
      owned_channels_({for_host_values_of(world).split(0, world.rank(), "checks"),
                       for_host_values_of(world).split(0, world.rank(), "message checks")}),
      channels_(owned_channels_),
      members_(world.all_gather_host(world.rank())) {}

CheckedCommunicator::CheckedCommunicator(std::unique_ptr<Communicator> inner_group,
                                         Channels& channels)
    : ForwardingCommunicator(std::move(inner_group)),
      channels_(channels),
      members_(inner().all_gather_host(channels.collectives->rank())) {}

void CheckedCommunicator::use(Backend& backend) {
  ForwardingCommunicator::use(backend);
  channels_.collectives->use(backend);
  channels_.messages->use(backend);
}

std::unique_ptr<Communicator> CheckedCommunicator::do_split(int color, int key, std::string name) {
  return std::unique_ptr<Communicator>(
      new CheckedCommunicator(inner().split(color, key, std::move(name)), channels_));
}

Event CheckedCommunicator::forward(Collective collective, Event after) {
  if (size() == 1) return run(collective, after);
  if (collective.kind == Kind::kMessages) return run_messages(collective, after);
  const CallDescription mine = describe(collective, inner(), ++num_calls_);
  const bool exchanges = collective.kind == Kind::kAllToAll;
  std::vector<Check::Pair> pairs;
  for (int member = 0; member < size(); ++member) {
    if (member == rank()) continue;
    Check::Pair pair = {.peer = job_rank(member), .mine = mine};
    const auto index = static_cast<size_t>(member);
    if (exchanges) {
      pair.mine.to_you = collective.send_counts[index] * row_bytes(collective.input);
      pair.mine.from_you = collective.counts[index] * row_bytes(collective.out);
    }
    pairs.push_back(pair);
  }
  auto check = std::make_unique<Check>(backend(), who(), std::move(pairs), after);
  check->exchange(*channels_.collectives, true, true);
  return run(collective, start_check(std::move(check), backend(), after));
}

// Sends never wait for what is received, nor for its check: the other rank may need them first.
Event CheckedCommunicator::run_messages(const Collective& messages, Event after) {
  check_messages(messages.sends, true, {});
  const Event sent = run({.kind = Kind::kMessages, .sends = messages.sends}, after);
  const Event checked = check_messages(messages.receives, false, after);
  const Event received = run({.kind = Kind::kMessages, .receives = messages.receives}, checked);
  if (backend() == nullptr) return received;
  return backend()->start(std::make_unique<Join>(*backend(), sent), received);
}

// Sends what describes messages to other ranks, or receives and compares it.
Event CheckedCommunicator::check_messages(const std::vector<Message>& messages, bool sends,
                                          Event after) {
  std::vector<Check::Pair> pairs;
  for (const Message& message : messages) {
    if (message.peer == rank()) continue;
    pairs.push_back(
        {.peer = job_rank(message.peer),
         .mine = describe({.kind = Kind::kMessages, .out = message.tensor}, inner(), 0)});
  }
  auto check = std::make_unique<Check>(backend(), who(), std::move(pairs), after);
  check->exchange(*channels_.messages, sends, !sends);
  return start_check(std::move(check), backend(), after);
}

}  // namespace switchyard
