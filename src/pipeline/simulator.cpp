#include "pipeline/simulator.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"

namespace switchyard {
namespace {

class Simulation {
 public:
  Simulation(const ScheduleSpec& spec, std::span<const StepCosts> costs)
      : spec_(spec), costs_(costs) {
    SY_CHECK(costs.size() == static_cast<size_t>(spec.num_pieces()), "{} costs for {} pieces",
             costs.size(), spec.num_pieces());
    const size_t entries = costs.size() * static_cast<size_t>(spec.num_micro_batches);
    forward_end_.resize(entries);
    backward_end_.resize(entries);
    for (int stage = 0; stage < spec.num_stages; ++stage)
      schedules_.push_back(make_schedule(spec, stage));
    timeline_.stages.resize(schedules_.size());
  }

  Timeline run() {
    // A stage runs until it waits for another one; a round in which nobody moves is a deadlock.
    bool moved = true;
    while (moved) {
      moved = false;
      for (int stage = 0; stage < spec_.num_stages; ++stage)
        while (advance(stage)) moved = true;
    }
    double busy_until = 0;
    for (const auto& steps : timeline_.stages) busy_until = std::max(busy_until, steps.back().end);
    timeline_.makespan = busy_until;
    for (size_t stage = 0; stage < schedules_.size(); ++stage) {
      const auto& steps = timeline_.stages[stage];
      SY_CHECK(steps.size() == schedules_[stage].size(), "stage {} waits for ever at step {}",
               stage, steps.size());
      double busy = 0;
      for (const TimedStep& timed : steps) busy += timed.end - timed.start;
      timeline_.bubble.push_back(timeline_.makespan - busy);
    }
    return std::move(timeline_);
  }

 private:
  bool advance(int stage) {
    const auto& schedule = schedules_[static_cast<size_t>(stage)];
    auto& done = timeline_.stages[static_cast<size_t>(stage)];
    if (done.size() == schedule.size()) return false;
    const PipelineStep& step = schedule[done.size()];
    const int piece = step.chunk * spec_.num_stages + stage;
    const std::optional<double> ready = ready_at(step, piece);
    if (!ready) return false;
    const double start = std::max(*ready, done.empty() ? 0.0 : done.back().end);
    const double end = start + costs_[static_cast<size_t>(piece)].of(step.phase);
    done.push_back({step, start, end});
    if (step.phase == Phase::kForward)
      forward_end_[index(step, piece)] = end;
    else if (step.phase != Phase::kBackwardWeight)
      backward_end_[index(step, piece)] = end;
    return true;
  }

  // When what the step needs is there; nothing if it has not been computed yet.
  std::optional<double> ready_at(const PipelineStep& step, int piece) const {
    if (step.phase == Phase::kForward)
      return piece == 0 ? 0.0 : forward_end_[index(step, piece - 1)];
    if (step.phase == Phase::kBackwardWeight) return backward_end_[index(step, piece)];
    return piece == spec_.num_pieces() - 1 ? forward_end_[index(step, piece)]
                                           : backward_end_[index(step, piece + 1)];
  }

  size_t index(const PipelineStep& step, int piece) const {
    return static_cast<size_t>(piece * spec_.num_micro_batches + step.micro_batch);
  }

  const ScheduleSpec& spec_;
  std::span<const StepCosts> costs_;
  std::vector<std::vector<PipelineStep>> schedules_;
  std::vector<std::optional<double>> forward_end_, backward_end_;  // [pieces * micro-batches]
  Timeline timeline_;
};

}  // namespace

double StepCosts::of(Phase phase) const {
  switch (phase) {
    case Phase::kForward:
      return forward;
    case Phase::kBackwardInput:
      return backward_input;
    case Phase::kBackwardWeight:
      return backward_weight;
    case Phase::kBackward:
      break;
  }
  return backward_input + backward_weight;
}

double Timeline::bubble_fraction() const {
  double idle = 0;
  for (const double stage_idle : bubble) idle += stage_idle;
  return makespan == 0 ? 0 : idle / (makespan * static_cast<double>(bubble.size()));
}

Timeline simulate(const ScheduleSpec& spec, std::span<const StepCosts> costs) {
  return Simulation(spec, costs).run();
}

Timeline simulate(const ScheduleSpec& spec, const StepCosts& costs) {
  return simulate(spec, std::vector<StepCosts>(static_cast<size_t>(spec.num_pieces()), costs));
}

std::string schedule_table(const ScheduleSpec& spec, const Timeline& timeline, int max_width) {
  size_t width = 0;
  for (const auto& steps : timeline.stages)
    for (const TimedStep& timed : steps)
      width = std::max(width, name_of(timed.step, spec.num_chunks).size());
  const auto row_head = [](size_t stage) { return fmt::format("stage {:<3}", stage); };
  const size_t all = static_cast<size_t>(std::ceil(timeline.makespan)),
               room = static_cast<size_t>(max_width) - row_head(0).size(),
               columns = std::min(all, room / (width + 1));
  std::string table;
  for (size_t stage = 0; stage < timeline.stages.size(); ++stage) {
    std::vector<std::string> cells(columns, ".");
    for (const TimedStep& timed : timeline.stages[stage]) {
      const auto first = static_cast<size_t>(timed.start), last = static_cast<size_t>(timed.end);
      for (size_t column = first; column < std::min(last, columns); ++column)
        cells[column] = column == first ? name_of(timed.step, spec.num_chunks) : "-";
    }
    std::string row = row_head(stage);
    for (const std::string& cell : cells) row += fmt::format(" {:<{}}", cell, width);
    row.erase(row.find_last_not_of(' ') + 1);
    table += row + (columns < all ? " ..." : "") + "\n";
  }
  return table;
}

}  // namespace switchyard
