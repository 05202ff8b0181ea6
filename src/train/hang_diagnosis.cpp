#include "train/hang_diagnosis.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <string_view>

namespace switchyard {
namespace {

bool is_responsive(const RankEvidence& rank) {
  return rank.is_known && rank.answers && rank.process_state != 'T';
}

const ProgressCall& call_of(const RankEvidence& rank) { return rank.head.waits_for; }

// In the middle of a call, or of its progress, without looking whether the others have come: MPI, a
// driver or a loop does not let it go. (A split has nothing to look at.)
bool is_stuck_in_call(const RankEvidence& rank) {
  const ProgressHead& head = rank.head;
  return !call_of(rank).is_none() && call_of(rank).kind != CallKind::kSplit &&
         head.heartbeat_ns - head.polled_ns > (head.heartbeat_ns - head.progressed_ns) / 2;
}

const ProgressGroup* group_with(const ProgressHead& head, uint64_t id) {
  const auto end = head.groups.begin() + head.num_groups;
  const auto found = std::find_if(head.groups.begin(), end,
                                  [&](const ProgressGroup& group) { return group.id == id; });
  return found == end ? nullptr : &*found;
}

const ProgressGroup* group_of_call(const ProgressHead& head) {
  const int group = head.waits_for.group;
  return group < 0 ? nullptr : &head.groups[static_cast<size_t>(group)];
}

// The rank of the job that is `rank_in_group` there, if its page is known.
std::optional<int> rank_of_member(std::span<const RankEvidence> ranks, uint64_t group,
                                  int64_t rank_in_group) {
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (!ranks[r].is_known) continue;
    const ProgressGroup* of_rank = group_with(ranks[r].head, group);
    if (of_rank != nullptr && of_rank->rank == rank_in_group) return static_cast<int>(r);
  }
  return std::nullopt;
}

// Messages that `head` has sent to `peer` in a group.
int64_t num_sent(const ProgressHead& head, const ProgressGroup& group, int64_t peer) {
  const auto index = static_cast<int32_t>(&group - head.groups.data());
  for (int64_t i = 0; i < head.num_channels; ++i) {
    const ProgressChannel& channel = head.channels[static_cast<size_t>(i)];
    if (channel.group == index && channel.peer == peer) return channel.sent;
  }
  return 0;
}

// What a waiting rank waits for.
struct Need {
  std::vector<int> absent;   // ranks that have not done their part
  std::vector<int> present;  // whose message is missing though they have sent it
};

Need need_of_messages(std::span<const RankEvidence> ranks, const RankEvidence& me,
                      const ProgressGroup& group) {
  Need need;
  const auto add = [&](int64_t peer, int64_t number) {
    const std::optional<int> rank = rank_of_member(ranks, group.id, peer);
    if (!rank) return;
    const ProgressHead& other = ranks[static_cast<size_t>(*rank)].head;
    const bool has_sent =
        number > 0 && num_sent(other, *group_with(other, group.id), group.rank) >= number;
    (has_sent ? need.present : need.absent).push_back(*rank);
  };
  for (const PeerMessage& message : call_of(me).receives)
    if (message.number > 0 && (me.head.missing_peer < 0 || message.peer == me.head.missing_peer))
      add(message.peer, message.number);
  // A message of ours that is not fetched.
  if (need.absent.empty() && need.present.empty() && me.head.missing_peer >= 0)
    add(me.head.missing_peer, 0);
  return need;
}

Need need_of_collective(std::span<const RankEvidence> ranks, const RankEvidence& me,
                        const ProgressGroup& group) {
  Need need;
  for (int64_t member = 0; member < group.size; ++member) {
    const std::optional<int> rank = rank_of_member(ranks, group.id, member);
    if (member == group.rank || !rank) continue;
    const ProgressHead& other = ranks[static_cast<size_t>(*rank)].head;
    if (group_with(other, group.id)->started < call_of(me).sequence)
      need.absent.push_back(*rank);
    else if (member == me.head.missing_peer)
      need.present.push_back(*rank);
  }
  return need;
}

// Whether another rank of those has come less far in the call that `rank` waits in.
bool is_ahead(std::span<const RankEvidence> ranks, int rank, const std::vector<int>& others) {
  const ProgressHead& me = ranks[static_cast<size_t>(rank)].head;
  return std::any_of(others.begin(), others.end(), [&](int other) {
    const ProgressHead& head = ranks[static_cast<size_t>(other)].head;
    return group_of_call(head)->id == group_of_call(me)->id &&
           head.waits_for.sequence == me.waits_for.sequence &&
           head.waits_for.kind == me.waits_for.kind && head.reached < me.reached;
  });
}

Need need_of(std::span<const RankEvidence> ranks, int rank) {
  const RankEvidence& me = ranks[static_cast<size_t>(rank)];
  const ProgressGroup* group = me.is_known ? group_of_call(me.head) : nullptr;
  if (group == nullptr) return {};
  return call_of(me).kind == CallKind::kSendReceive ? need_of_messages(ranks, me, *group)
                                                    : need_of_collective(ranks, me, *group);
}

std::string rank_name(std::span<const RankEvidence> ranks, int rank) {
  const RankEvidence& evidence = ranks[static_cast<size_t>(rank)];
  if (!evidence.is_known) return fmt::format("rank {}", rank);
  return fmt::format("rank {} on {}", rank, evidence.head.host.data());
}

// "node7 (rank 2, 3)"
std::string host_with_ranks(std::span<const RankEvidence> ranks, std::string_view host) {
  std::vector<int> there;
  for (size_t r = 0; r < ranks.size(); ++r)
    if (ranks[r].is_known && ranks[r].head.host.data() == host)
      there.push_back(static_cast<int>(r));
  return fmt::format("{} (rank {})", host, fmt::join(there, ", "));
}

// " between node7 (rank 2, 3) and node8 (rank 4)": where a host may be cut off, everybody on it is
// named. Nothing within a host.
std::string lost_where(std::span<const RankEvidence> ranks, int from, int to) {
  const std::string_view sender = ranks[static_cast<size_t>(from)].head.host.data();
  const std::string_view receiver = ranks[static_cast<size_t>(to)].head.host.data();
  if (sender == receiver) return "";
  return fmt::format(" between {} and {}", host_with_ranks(ranks, sender),
                     host_with_ranks(ranks, receiver));
}

// The call in which others miss `rank`: that of the lowest rank that needs it directly.
std::string missed_in(std::span<const RankEvidence> ranks, int rank) {
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (static_cast<int>(r) == rank || !is_responsive(ranks[r])) continue;
    const Need need = need_of(ranks, static_cast<int>(r));
    const auto holds = [&](const std::vector<int>& list) {
      return std::find(list.begin(), list.end(), rank) != list.end();
    };
    if (holds(need.absent) || holds(need.present))
      return fmt::format("; rank {} waits for it in {}", r,
                         describe_call(ranks[r].head, call_of(ranks[r])));
  }
  return "";
}

std::string state_text(const RankEvidence& rank) {
  if (!rank.is_known) return "has left no page";
  if (rank.process_state == 'T') return fmt::format("is stopped (process {})", rank.head.pid);
  if (rank.process_state == '-') return fmt::format("is gone (process {})", rank.head.pid);
  return "does not answer";
}

// "step 3, forward, layer 1, in dp all_reduce #4 (64 bytes)"
std::string whereabouts(const RankEvidence& rank) {
  if (!rank.is_known) return "an unknown place";
  const ProgressCall& call = call_of(rank);
  return call.is_none()
             ? fmt::format("{}, in no collective", describe_place(rank.head))
             : fmt::format("{}, in {}", describe_place(rank.head), describe_call(rank.head, call));
}

template <typename Sentence>
Diagnosis blame(std::vector<int> culprits, const Sentence& sentence) {
  std::vector<std::string> sentences;
  for (const int rank : culprits) sentences.push_back(sentence(rank));
  return {std::move(culprits), fmt::format("{}", fmt::join(sentences, "; "))};
}

// Ranks from which the ways of waiting lead back to themselves; in the end of every other way.
std::vector<int> circle(std::span<const RankEvidence> ranks) {
  int rank = 0;
  for (size_t steps = 0; steps < ranks.size(); ++steps) {  // long enough to be in it
    const Need need = need_of(ranks, rank);
    if (need.absent.empty()) return {};
    rank = need.absent[0];
  }
  std::vector<int> members;
  const int first = rank;
  do {
    members.push_back(rank);
    rank = need_of(ranks, rank).absent[0];
  } while (rank != first);
  std::sort(members.begin(), members.end());
  return members;
}

}  // namespace

Diagnosis diagnose_hang(std::span<const RankEvidence> ranks) {
  std::vector<int> silent, idle, bereft;
  for (int rank = 0; rank < static_cast<int>(ranks.size()); ++rank) {
    const RankEvidence& evidence = ranks[static_cast<size_t>(rank)];
    if (!is_responsive(evidence))
      silent.push_back(rank);
    else if (call_of(evidence).is_none() || is_stuck_in_call(evidence))
      idle.push_back(rank);
    else if (const Need need = need_of(ranks, rank); need.absent.empty() && !need.present.empty())
      bereft.push_back(rank);
  }
  // Rounds of a collective follow each other: only who is in the first of them lacks something.
  const std::vector<int> all_bereft = bereft;
  std::erase_if(bereft, [&](int rank) { return is_ahead(ranks, rank, all_bereft); });
  if (!silent.empty())
    return blame(silent, [&](int rank) {
      const RankEvidence& evidence = ranks[static_cast<size_t>(rank)];
      return fmt::format("{} {}, at {}{}", rank_name(ranks, rank), state_text(evidence),
                         whereabouts(evidence), missed_in(ranks, rank));
    });
  if (!idle.empty())
    return blame(idle, [&](int rank) {
      const RankEvidence& evidence = ranks[static_cast<size_t>(rank)];
      return fmt::format("{} {} at {}{}", rank_name(ranks, rank),
                         is_stuck_in_call(evidence) ? "is stuck" : "runs without progress",
                         whereabouts(evidence), missed_in(ranks, rank));
    });
  if (!bereft.empty())
    return blame(bereft, [&](int rank) {
      const std::vector<int> senders = need_of(ranks, rank).present;
      return fmt::format("{} waits at {} for a message that rank {} has sent: it was lost{}",
                         rank_name(ranks, rank), whereabouts(ranks[static_cast<size_t>(rank)]),
                         fmt::join(senders, ", "), lost_where(ranks, senders[0], rank));
    });
  const std::vector<int> members = circle(ranks);
  if (members.empty()) return {{}, "what holds the ranks up cannot be seen from their pages"};
  Diagnosis diagnosis = blame(members, [&](int rank) {
    return fmt::format("{} at {} waits for rank {}", rank_name(ranks, rank),
                       whereabouts(ranks[static_cast<size_t>(rank)]),
                       need_of(ranks, rank).absent[0]);
  });
  diagnosis.text = "ranks wait for each other: " + diagnosis.text;
  return diagnosis;
}

std::string describe_rank(std::span<const RankEvidence> ranks, int rank) {
  const RankEvidence& evidence = ranks[static_cast<size_t>(rank)];
  if (!evidence.is_known) return fmt::format("rank {}: has left no page", rank);
  const ProgressHead& head = evidence.head;
  std::string text = fmt::format("{}: {}", rank_name(ranks, rank), describe_place(head));
  const int64_t until = std::max(head.heartbeat_ns, head.progressed_ns);
  const auto seconds = [&](int64_t since) { return static_cast<double>(until - since) * 1e-9; };
  if (call_of(evidence).is_none())
    return text + fmt::format(", {:.1f} s after its last mark, in no collective",
                              seconds(head.progressed_ns));
  text += fmt::format(", waits {:.1f} s in {}", seconds(head.waits_since_ns),
                      describe_call(head, call_of(evidence)));
  Need need = need_of(ranks, rank);
  need.absent.insert(need.absent.end(), need.present.begin(), need.present.end());
  if (!need.absent.empty()) text += fmt::format(" for rank {}", fmt::join(need.absent, ", "));
  return text;
}

std::string describe_place(const ProgressHead& head) {
  std::string text = fmt::format("step {}, {}", head.step, name_of(head.phase));
  if (const std::string unit = unit_text(head, head.unit); !unit.empty()) text += ", " + unit;
  return text;
}

std::string describe_call(const ProgressHead& head, const ProgressCall& call) {
  return fmt::format("{} {} #{} ({} bytes)", head.group_name(call.group), name_of(call.kind),
                     call.sequence, call.bytes);
}

std::string unit_text(const ProgressHead& head, int64_t unit) {
  if (unit < 0) return "";
  if (unit == 0) return "embedding";
  return unit == 1 + head.num_layers ? "head" : fmt::format("layer {}", unit - 1);
}

}  // namespace switchyard
