#include "pipeline/communication_order.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "core/error.h"
#include "pipeline/messages.h"

namespace switchyard {
namespace {

// The communicators inside a stage on which a step may run collectives: layers in both directions,
// the optimizer's reductions where weight gradients become final.
std::vector<std::string> collectives_of(Phase phase) {
  switch (phase) {
    case Phase::kForward:
      return {"tp", "stage", "ep", "etp", "tp"};
    case Phase::kBackward:
      return {"tp", "etp", "ep", "stage", "tp", "dp", "edp"};
    case Phase::kBackwardInput:
      return {"tp", "etp", "ep", "stage", "tp"};
    case Phase::kBackwardWeight:
      break;
  }
  return {"dp", "edp"};
}

// The ranks that share with `me` all coordinates but the communicator's own.
std::vector<int> members_of(const std::string& communicator, int me, const GridSizes& sizes) {
  const auto key = [&](const GridCoordinates& at) -> std::tuple<int, int, int> {
    if (communicator == "tp") return {at.pp, at.dp, 0};
    if (communicator == "dp") return {at.pp, at.tp, 0};
    if (communicator == "ep") return {at.pp, at.etp, at.edp};
    if (communicator == "etp") return {at.pp, at.ep, at.edp};
    if (communicator == "edp") return {at.pp, at.ep, at.etp};
    if (communicator == "stage") return {at.pp, 0, 0};
    SY_CHECK(communicator == "world", "no communicator {}", communicator);
    return {0, 0, 0};
  };
  std::vector<int> members;
  for (int rank = 0; rank < sizes.world(); ++rank)
    if (key(coordinates_of(rank, sizes)) == key(coordinates_of(me, sizes))) members.push_back(rank);
  return members;
}

Operation messages_of(const ScheduleSpec& spec, const GridSizes& sizes, int rank,
                      const MessageGroup& group, const std::string& label) {
  const int stage = coordinates_of(rank, sizes).pp, stage_ranks = sizes.dp * sizes.tp;
  // Named by the piece of the model that receives it.
  const auto as_rank_message = [&](const StageMessage& message, bool is_sent) {
    const bool is_activation = message.kind == MessageKind::kActivation;
    const int piece = message.chunk * spec.num_stages + stage,
              receiver = is_sent ? piece + (is_activation ? 1 : -1) : piece;
    return RankMessage{rank % stage_ranks + message.peer * stage_ranks,
                       fmt::format("{} {} for piece {}", is_activation ? "activation" : "gradient",
                                   message.micro_batch, receiver)};
  };
  Operation operation{.communicator = "pp", .label = label};
  for (const StageMessage& sent : group.sends)
    operation.sends.push_back(as_rank_message(sent, true));
  for (const StageMessage& received : group.receives)
    operation.receives.push_back(as_rank_message(received, false));
  return operation;
}

using Channel = std::tuple<std::string, int, int>;                 // communicator, sender, receiver
using CollectiveGroup = std::pair<std::string, std::vector<int>>;  // communicator, ranks

// Runs all programs as far as they go.
class BlockingRun {
 public:
  explicit BlockingRun(const std::vector<RankProgram>& programs)
      : programs_(programs), position_(programs.size()), place_(programs.size()) {
    for (size_t rank = 0; rank < programs.size(); ++rank) post(rank);
  }

  std::optional<std::string> run() {
    bool moved = true;
    while (moved && !mismatch_) {
      moved = false;
      for (size_t rank = 0; rank < programs_.size(); ++rank)
        while (!is_finished(rank) && !first_wait(rank) && !mismatch_) {
          ++position_[rank];
          post(rank);
          moved = true;
        }
    }
    return mismatch_ ? mismatch_ : explain_standstill();
  }

 private:
  struct Wait {
    size_t rank = 0;   // for whom
    std::string what;  // "to send activation 3 ..."
  };

  bool is_finished(size_t rank) const { return position_[rank] == programs_[rank].size(); }
  const Operation& current(size_t rank) const { return programs_[rank][position_[rank]]; }

  // Makes the operation at which `rank` has arrived visible to the others.
  void post(size_t rank) {
    if (is_finished(rank)) return;
    const Operation& operation = current(rank);
    const int me = static_cast<int>(rank);
    place_[rank].clear();
    const auto add = [&](std::vector<std::string>& mine, const std::vector<std::string>& theirs,
                         const RankMessage& message) {
      place_[rank].push_back(mine.size());
      mine.push_back(message.label);
      const size_t at = mine.size() - 1;
      if (at < theirs.size() && theirs[at] != message.label)
        mismatch_ = fmt::format("rank {} and rank {}: \"{}\" meets \"{}\" on {}", rank,
                                message.peer, message.label, theirs[at], operation.communicator);
    };
    for (const RankMessage& sent : operation.sends) {
      const Channel channel(operation.communicator, me, sent.peer);
      add(sent_[channel], received_[channel], sent);
    }
    for (const RankMessage& received : operation.receives) {
      const Channel channel(operation.communicator, received.peer, me);
      add(received_[channel], sent_[channel], received);
    }
    if (!operation.group.empty()) arrive(rank, operation);
  }

  void arrive(size_t rank, const Operation& operation) {
    auto& labels = arrivals_[CollectiveGroup(operation.communicator, operation.group)];
    std::vector<std::string>& mine = labels[static_cast<int>(rank)];
    mine.push_back(operation.label);
    for (const auto& [other, theirs] : labels)
      if (theirs.size() >= mine.size() && theirs[mine.size() - 1] != operation.label)
        mismatch_ =
            fmt::format("rank {} runs {} of \"{}\" while rank {} runs that of \"{}\"", rank,
                        operation.communicator, operation.label, other, theirs[mine.size() - 1]);
  }

  // What keeps a rank from completing its operation, if anything does.
  std::optional<Wait> first_wait(size_t rank) {
    const Operation& operation = current(rank);
    const int me = static_cast<int>(rank);
    size_t next = 0;
    for (const RankMessage& sent : operation.sends)
      if (place_[rank][next++] >= received_[Channel(operation.communicator, me, sent.peer)].size())
        return Wait{static_cast<size_t>(sent.peer), "to receive " + sent.label};
    for (const RankMessage& received : operation.receives)
      if (place_[rank][next++] >= sent_[Channel(operation.communicator, received.peer, me)].size())
        return Wait{static_cast<size_t>(received.peer), "to send " + received.label};
    if (operation.group.empty()) return std::nullopt;
    auto& labels = arrivals_[CollectiveGroup(operation.communicator, operation.group)];
    for (const int other : operation.group)
      if (labels[other].size() < labels[me].size())
        return Wait{static_cast<size_t>(other), "to come to " + operation.communicator};
    return std::nullopt;
  }

  // Nobody moves: whoever is not finished waits for somebody. Following the waits leads to a rank
  // that is finished, or around a cycle.
  std::optional<std::string> explain_standstill() {
    size_t rank = 0;
    while (rank < programs_.size() && is_finished(rank)) ++rank;
    if (rank == programs_.size()) return std::nullopt;
    std::vector<size_t> path;
    while (std::find(path.begin(), path.end(), rank) == path.end()) {
      if (is_finished(rank))
        return fmt::format("{}, but that rank has finished", text_of(path.back()));
      path.push_back(rank);
      rank = first_wait(rank)->rank;
    }
    path.erase(path.begin(), std::find(path.begin(), path.end(), rank));
    std::string cycle;
    for (const size_t member : path) cycle += (cycle.empty() ? "" : "; ") + text_of(member);
    return cycle;
  }

  std::string text_of(size_t rank) {
    const Wait wait = *first_wait(rank);
    return fmt::format("rank {} at {} waits for rank {} {}", rank, current(rank).label, wait.rank,
                       wait.what);
  }

  const std::vector<RankProgram>& programs_;
  std::vector<size_t> position_;            // [ranks]
  std::vector<std::vector<size_t>> place_;  // [ranks]: place of each message of the current
                                            // operation in its channel
  std::map<Channel, std::vector<std::string>> sent_, received_;  // labels posted so far
  std::map<CollectiveGroup, std::map<int, std::vector<std::string>>> arrivals_;  // labels by rank
  std::optional<std::string> mismatch_;
};

}  // namespace

std::vector<RankProgram> make_programs(const ScheduleSpec& spec, const GridSizes& sizes) {
  SY_CHECK(spec.num_stages == sizes.pp, "{} stages on a grid of {}", spec.num_stages, sizes.pp);
  const std::vector<StageMessages> plans = plan_messages(spec);
  std::vector<RankProgram> programs;
  for (int rank = 0; rank < sizes.world(); ++rank) {
    RankProgram& program = programs.emplace_back();
    const auto add_collective = [&](const std::string& communicator, const std::string& label) {
      Operation operation{communicator, label, members_of(communicator, rank, sizes)};
      if (operation.group.size() > 1) program.push_back(std::move(operation));
    };
    const auto add_messages = [&](const MessageGroup& group, const std::string& label) {
      if (!group.sends.empty() || !group.receives.empty())
        program.push_back(messages_of(spec, sizes, rank, group, label));
    };
    const int stage = coordinates_of(rank, sizes).pp;
    const auto& groups = plans[static_cast<size_t>(stage)].groups;
    const std::vector<PipelineStep> steps = make_schedule(spec, stage);
    for (size_t i = 0; i < steps.size(); ++i) {
      const std::string label = name_of(steps[i], spec.num_chunks);
      add_messages(groups[i], label);
      for (const std::string& communicator : collectives_of(steps[i].phase))
        add_collective(communicator, label);
    }
    add_messages(groups.back(), "the end");
    add_collective("world", "the end");
  }
  return programs;
}

std::optional<std::string> check_order(const std::vector<RankProgram>& programs) {
  return BlockingRun(programs).run();
}

}  // namespace switchyard
