#include "pipeline/schedule.h"

#include <algorithm>
#include <limits>
#include <map>

#include "core/error.h"
#include "core/math.h"

namespace switchyard {
namespace {

// A stage goes forward while it is less than `lead` micro-batches ahead of its backward passes.
std::vector<PipelineStep> whole_backwards(int lead, int num_micro_batches) {
  std::vector<PipelineStep> steps;
  int forward = 0, backward = 0;
  while (backward < num_micro_batches) {
    if (forward < num_micro_batches && forward - backward < lead)
      steps.push_back({Phase::kForward, forward++});
    else
      steps.push_back({Phase::kBackward, backward++});
  }
  return steps;
}

// As 1f1b, with weight parts `stage` micro-batches behind: the later the stage, the less it has run
// ahead and the more weight parts it can hold back for the end, where it waits for nobody.
std::vector<PipelineStep> split_backwards(int lead, int stage, int num_micro_batches) {
  std::vector<PipelineStep> steps;
  int forward = 0, input = 0, weight = 0;
  while (weight < num_micro_batches) {
    if (input - weight > stage || input == num_micro_batches)
      steps.push_back({Phase::kBackwardWeight, weight++});
    else if (forward < num_micro_batches && forward - input < lead)
      steps.push_back({Phase::kForward, forward++});
    else
      steps.push_back({Phase::kBackwardInput, input++});
  }
  return steps;
}

// Micro-batches go in groups of num_stages: a group passes chunk 0, then chunk 1, ...; backwards
// from the last chunk to the first.
std::vector<PipelineStep> interleaved(const ScheduleSpec& spec, int stage) {
  const int p = spec.num_stages, v = spec.num_chunks;
  const auto nth = [&](Phase phase, int n) {
    const int group = n / (p * v), in_group = n % (p * v), chunk = in_group / p;
    return PipelineStep{phase, group * p + in_group % p,
                        phase == Phase::kForward ? chunk : v - 1 - chunk};
  };
  const int rounded = static_cast<int>(round_up(spec.num_micro_batches, p)), count = rounded * v;
  const int lead = 2 * (p - stage - 1) + (v - 1) * p + 1;
  std::vector<PipelineStep> steps;
  for (const PipelineStep& step : whole_backwards(lead, count)) {
    const PipelineStep piece = nth(step.phase, step.micro_batch);
    if (piece.micro_batch < spec.num_micro_batches) steps.push_back(piece);
  }
  return steps;
}

}  // namespace

ScheduleSpec schedule_spec(const RunConfig& config) {
  SY_CHECK(*config.gradient_accumulation_steps <= std::numeric_limits<int>::max(),
           "{} micro-batches per step", *config.gradient_accumulation_steps);
  return {.kind = config.pipeline.schedule,
          .num_stages = config.parallelism.pipeline_parallel_size,
          .num_micro_batches = static_cast<int>(*config.gradient_accumulation_steps),
          .num_chunks = config.pipeline.virtual_stages};
}

std::vector<PipelineStep> make_schedule(const ScheduleSpec& spec, int stage) {
  SY_CHECK(std::min({spec.num_stages, spec.num_micro_batches, spec.num_chunks}) >= 1 &&
               stage >= 0 && stage < spec.num_stages,
           "stage {} of {}, {} micro-batches, {} chunks", stage, spec.num_stages,
           spec.num_micro_batches, spec.num_chunks);
  SY_CHECK(
      spec.num_chunks == 1 || (spec.kind == ScheduleKind::kInterleaved1F1B && spec.num_stages > 1),
      "{} chunks on {} stages without interleaving", spec.num_chunks, spec.num_stages);
  const int lead = std::min(spec.num_stages - stage, spec.num_micro_batches);
  switch (spec.kind) {
    case ScheduleKind::kGPipe:
      return whole_backwards(spec.num_micro_batches, spec.num_micro_batches);
    case ScheduleKind::kZeroBubbleH1:
      return split_backwards(lead, stage, spec.num_micro_batches);
    case ScheduleKind::kInterleaved1F1B:
      if (spec.num_chunks > 1) return interleaved(spec, stage);
      break;
    case ScheduleKind::k1F1B:
      break;
  }
  return whole_backwards(lead, spec.num_micro_batches);
}

ActivationSlots assign_activation_slots(const std::vector<PipelineStep>& steps) {
  ActivationSlots slots;
  std::vector<bool> is_taken;
  std::map<std::pair<int, int>, int> slot_of;  // (micro-batch, chunk)
  for (const PipelineStep& step : steps) {
    const std::pair key(step.micro_batch, step.chunk);
    if (step.phase == Phase::kForward) {
      const auto free = std::find(is_taken.begin(), is_taken.end(), false);
      slot_of[key] = static_cast<int>(free - is_taken.begin());
      if (free == is_taken.end())
        is_taken.push_back(true);
      else
        *free = true;
    }
    const int slot = slot_of.at(key);
    slots.slot_of_step.push_back(slot);
    if (step.phase == Phase::kBackward || step.phase == Phase::kBackwardWeight)
      is_taken[static_cast<size_t>(slot)] = false;
  }
  slots.count = static_cast<int>(is_taken.size());
  return slots;
}

int activation_slots(const ScheduleSpec& spec, int stage) {
  return assign_activation_slots(make_schedule(spec, stage)).count;
}

std::string name_of(const PipelineStep& step, int num_chunks) {
  const char letter = step.phase == Phase::kForward          ? 'F'
                      : step.phase == Phase::kBackwardWeight ? 'W'
                                                             : 'B';
  return num_chunks == 1 ? fmt::format("{}{}", letter, step.micro_batch)
                         : fmt::format("{}{}.{}", letter, step.micro_batch, step.chunk);
}

}  // namespace switchyard
