#include "pipeline/messages.h"

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "pipeline/simulator.h"

namespace switchyard {
namespace {

// One message as both ends see it.
struct Transfer {
  double time = 0;
  size_t from = 0, to = 0;  // stages
  size_t made_by = 0;       // step of `from`
  StageMessage sent, received;
};

std::optional<Transfer> transfer_after(const ScheduleSpec& spec, const Timeline& timeline,
                                       int stage, size_t index) {
  const TimedStep& timed = timeline.stages[static_cast<size_t>(stage)][index];
  const PipelineStep& step = timed.step;
  if (step.phase == Phase::kBackwardWeight) return std::nullopt;
  const bool is_forward = step.phase == Phase::kForward;
  const int piece = step.chunk * spec.num_stages + stage, next = piece + (is_forward ? 1 : -1);
  if (next < 0 || next == spec.num_pieces()) return std::nullopt;
  const MessageKind kind = is_forward ? MessageKind::kActivation : MessageKind::kGradient;
  const int peer = next % spec.num_stages;
  return Transfer{.time = timed.end,
                  .from = static_cast<size_t>(stage),
                  .to = static_cast<size_t>(peer),
                  .made_by = index,
                  .sent = {kind, step.micro_batch, step.chunk, peer},
                  .received = {kind, step.micro_batch, next / spec.num_stages, stage}};
}

bool needs(const PipelineStep& step, const StageMessage& message) {
  const bool fits = message.kind == MessageKind::kActivation
                        ? step.phase == Phase::kForward
                        : step.phase == Phase::kBackward || step.phase == Phase::kBackwardInput;
  return fits && step.micro_batch == message.micro_batch && step.chunk == message.chunk;
}

// Every received message gets the lowest free buffer from its group to its step.
void assign_buffers(const std::vector<TimedStep>& steps, StageMessages& plan) {
  std::vector<std::optional<StageMessage>> waiting;  // [buffers]
  for (size_t i = 0; i < steps.size(); ++i) {
    for (StageMessage& message : plan.groups[i].receives) {
      const auto free = std::find_if(waiting.begin(), waiting.end(),
                                     [](const auto& buffer) { return !buffer.has_value(); });
      message.buffer = static_cast<int>(free - waiting.begin());
      if (free == waiting.end())
        waiting.emplace_back(message);
      else
        *free = message;
    }
    const auto mine = std::find_if(waiting.begin(), waiting.end(), [&](const auto& buffer) {
      return buffer.has_value() && needs(steps[i].step, *buffer);
    });
    plan.buffer_of_step.push_back(mine == waiting.end() ? -1
                                                        : static_cast<int>(mine - waiting.begin()));
    if (mine != waiting.end()) mine->reset();
  }
  plan.num_buffers = static_cast<int>(waiting.size());
}

}  // namespace

std::vector<StageMessages> plan_messages(const ScheduleSpec& spec) {
  const Timeline timeline = simulate(spec);
  std::vector<Transfer> transfers;  // those of one sender in the order of their times
  for (int stage = 0; stage < spec.num_stages; ++stage)
    for (size_t i = 0; i < timeline.stages[static_cast<size_t>(stage)].size(); ++i)
      if (const auto transfer = transfer_after(spec, timeline, stage, i))
        transfers.push_back(*transfer);

  std::vector<StageMessages> plans(timeline.stages.size());
  for (size_t stage = 0; stage < plans.size(); ++stage)
    plans[stage].groups.resize(timeline.stages[stage].size() + 1);
  for (const Transfer& transfer : transfers) {
    plans[transfer.from].groups[transfer.made_by + 1].sends.push_back(transfer.sent);
    const auto& steps = timeline.stages[transfer.to];
    const auto before =
        std::partition_point(steps.begin(), steps.end(),
                             [&](const TimedStep& timed) { return timed.start < transfer.time; });
    plans[transfer.to].groups[static_cast<size_t>(before - steps.begin())].receives.push_back(
        transfer.received);
  }
  for (size_t stage = 0; stage < plans.size(); ++stage)
    assign_buffers(timeline.stages[stage], plans[stage]);
  return plans;
}

}  // namespace switchyard
