// What a schedule costs in time: start and end of every step on every stage when messages take
// none. A pure function: `switchyard plan` prints it, tests hold it against closed forms, and the
// order of messages (messages.h) is taken from it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "pipeline/schedule.h"

namespace switchyard {

// Of one micro-batch through one piece of the model, in any unit of time. A backward that is not
// split takes the sum of its parts.
struct StepCosts {
  double forward = 1;
  double backward_input = 1;
  double backward_weight = 1;

  double of(Phase phase) const;
};

struct TimedStep {
  PipelineStep step;
  double start = 0, end = 0;
};

struct Timeline {
  std::vector<std::vector<TimedStep>> stages;
  double makespan = 0;         // from the first start to the last end
  std::vector<double> bubble;  // [stages]: time in which the stage does nothing

  double bubble_fraction() const;  // idle time / time, over all stages
};

// The costs of each piece: costs[chunk * num_stages + stage].
Timeline simulate(const ScheduleSpec& spec, std::span<const StepCosts> costs);
// All pieces alike.
Timeline simulate(const ScheduleSpec& spec, const StepCosts& costs = {});

// A row per stage, a column per unit of time; a step's name stands where it starts, dashes where
// it goes on, dots where the stage waits. Rows longer than `max_width` characters are cut.
std::string schedule_table(const ScheduleSpec& spec, const Timeline& timeline, int max_width);

}  // namespace switchyard
