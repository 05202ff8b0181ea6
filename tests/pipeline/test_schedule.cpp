// Schedules against closed forms: every step once and in order, the bubble, the slots.
#include <map>
#include <tuple>

#include "pipeline/schedules.h"
#include "pipeline/simulator.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

std::string names_of(const ScheduleSpec& spec, int stage) {
  std::string names;
  for (const PipelineStep& step : make_schedule(spec, stage))
    names += (names.empty() ? "" : " ") + name_of(step, spec.num_chunks);
  return names;
}

// Makespan beyond the work of one stage.
double bubble_of(const ScheduleSpec& spec, const StepCosts& per_chunk) {
  const double work = per_chunk.forward + per_chunk.of(Phase::kBackward);
  return simulate(spec, per_chunk).makespan - spec.num_micro_batches * spec.num_chunks * work;
}

}  // namespace

TEST_CASE("the schedules of two stages, by hand") {
  using enum ScheduleKind;
  CHECK(names_of({kGPipe, 2, 3, 1}, 0) == "F0 F1 F2 B0 B1 B2");
  CHECK(names_of({k1F1B, 2, 3, 1}, 0) == "F0 F1 B0 F2 B1 B2");
  CHECK(names_of({k1F1B, 2, 3, 1}, 1) == "F0 B0 F1 B1 F2 B2");
  CHECK(names_of({kZeroBubbleH1, 2, 3, 1}, 0) == "F0 F1 B0 W0 F2 B1 W1 B2 W2");
  CHECK(names_of({kZeroBubbleH1, 2, 3, 1}, 1) == "F0 B0 F1 B1 W0 F2 B2 W1 W2");
  CHECK(names_of({kInterleaved1F1B, 2, 2, 2}, 0) == "F0.0 F1.0 F0.1 F1.1 B0.1 B1.1 B0.0 B1.0");
  CHECK(names_of({kInterleaved1F1B, 2, 2, 2}, 1) == "F0.0 F1.0 F0.1 B0.1 F1.1 B1.1 B0.0 B1.0");
  // The third micro-batch goes alone through what would be a group of two.
  CHECK(names_of({kInterleaved1F1B, 2, 3, 2}, 1) ==
        "F0.0 F1.0 F0.1 B0.1 F1.1 B1.1 F2.0 B0.0 B1.0 F2.1 B2.1 B2.0");
}

TEST_CASE("interleaving one chunk is 1f1b") {
  for (int stage = 0; stage < 4; ++stage)
    CHECK(make_schedule({ScheduleKind::kInterleaved1F1B, 4, 6, 1}, stage) ==
          make_schedule({ScheduleKind::k1F1B, 4, 6, 1}, stage));
}

TEST_CASE("every micro-batch passes every chunk once, in ascending order in each phase") {
  for (const ScheduleSpec& spec : all_schedules())
    for (int stage = 0; stage < spec.num_stages; ++stage) {
      CAPTURE(described(spec), stage);
      std::map<std::pair<Phase, int>, int> next;  // micro-batch of (phase, chunk)
      for (const PipelineStep& step : make_schedule(spec, stage))
        REQUIRE(step.micro_batch == next[std::pair(step.phase, step.chunk)]++);
      const bool is_split = spec.kind == ScheduleKind::kZeroBubbleH1;
      REQUIRE(next.size() == static_cast<size_t>(spec.num_chunks * (is_split ? 3 : 2)));
      for (const auto& [phase_and_chunk, count] : next) {
        REQUIRE(count == spec.num_micro_batches);
        REQUIRE((phase_and_chunk.first == Phase::kBackward) <= !is_split);
      }
    }
}

TEST_CASE("the bubble is that of the closed form") {
  // F, B, W in units that doubles add exactly; W no longer than F or B.
  for (const StepCosts& costs : {StepCosts{1, 1, 1}, StepCosts{2, 3, 2}, StepCosts{5, 9, 4}})
    for (const ScheduleSpec& spec : all_schedules()) {
      CAPTURE(described(spec), costs.forward, costs.backward_input, costs.backward_weight);
      const double F = costs.forward, B = costs.backward_input, W = costs.backward_weight;
      const int p = spec.num_stages, m = spec.num_micro_batches;
      const double bubble = bubble_of(spec, costs);
      if (spec.kind == ScheduleKind::kZeroBubbleH1)  // (p - 1)(F + B - W) from p micro-batches on
        REQUIRE(bubble == (p - 1) * (F + B) - (std::min(m, p) - 1) * W);
      else if (m % p == 0 || spec.num_chunks == 1)
        // F, B and W are those of one chunk here: of a whole stage, the bubble is divided by v.
        REQUIRE(bubble == (p - 1) * (F + B + W));
      else
        REQUIRE(bubble <= (p - 1 + (p - m % p) * spec.num_chunks) * (F + B + W));
    }
}

TEST_CASE("a slow weight part leaves zb_h1 no worse than 1f1b") {
  for (int p = 1; p <= 6; ++p)
    for (int m = 1; m <= 13; ++m)
      CHECK(bubble_of({ScheduleKind::kZeroBubbleH1, p, m, 1}, {1, 1, 4}) <=
            bubble_of({ScheduleKind::k1F1B, p, m, 1}, {1, 1, 4}));
}

TEST_CASE("a step starts after what it needs, and a stage does one thing at a time") {
  for (const ScheduleSpec& spec : all_schedules()) {
    CAPTURE(described(spec));
    std::vector<StepCosts> costs;  // far from even, so that stages do wait
    for (int piece = 0; piece < spec.num_pieces(); ++piece)
      costs.push_back({1.0 + piece * 7 % 5, 1.0 + piece * 3 % 7, 2.0 + piece % 3});
    const Timeline timeline = simulate(spec, costs);
    std::map<std::tuple<Phase, int, int>, double> end_of;  // (phase, micro-batch, piece)
    const auto for_each = [&](const auto& visit) {
      for (size_t stage = 0; stage < timeline.stages.size(); ++stage)
        for (const TimedStep& timed : timeline.stages[stage])
          visit(timed, timed.step.chunk * spec.num_stages + static_cast<int>(stage));
    };
    for_each([&](const TimedStep& timed, int piece) {
      end_of[std::tuple(timed.step.phase, timed.step.micro_batch, piece)] = timed.end;
    });
    const bool is_split = spec.kind == ScheduleKind::kZeroBubbleH1;
    const Phase backward = is_split ? Phase::kBackwardInput : Phase::kBackward;
    for_each([&](const TimedStep& timed, int piece) {
      const auto comes_after = [&](Phase phase, int other) {
        REQUIRE(timed.start >= end_of.at(std::tuple(phase, timed.step.micro_batch, other)));
      };
      if (timed.step.phase == Phase::kBackwardWeight) return comes_after(backward, piece);
      if (timed.step.phase == Phase::kForward) {
        if (piece > 0) comes_after(Phase::kForward, piece - 1);
        return;
      }
      comes_after(Phase::kForward, piece);
      if (piece + 1 < spec.num_pieces()) comes_after(backward, piece + 1);
    });
    for (const auto& steps : timeline.stages)
      for (size_t i = 1; i < steps.size(); ++i) REQUIRE(steps[i].start >= steps[i - 1].end);
  }
}

TEST_CASE("start and end of every step, of unequal pieces") {
  const ScheduleSpec spec{ScheduleKind::k1F1B, 2, 2, 1};
  const Timeline timeline = simulate(spec, std::vector<StepCosts>{{1, 1, 1}, {3, 2, 1}});
  const auto times = [&](size_t stage) {
    std::vector<double> flat;
    for (const TimedStep& timed : timeline.stages[stage]) {
      flat.push_back(timed.start);
      flat.push_back(timed.end);
    }
    return flat;
  };
  CHECK(times(0) == std::vector<double>{0, 1, 1, 2, 7, 9, 13, 15});   // F0 F1 B0 B1
  CHECK(times(1) == std::vector<double>{1, 4, 4, 7, 7, 10, 10, 13});  // F0 B0 F1 B1
  CHECK(timeline.makespan == 15);
  CHECK(timeline.bubble == std::vector<double>{9, 3});
  CHECK(timeline.bubble_fraction() == 12.0 / 30);
}

TEST_CASE("activation slots are those of the closed form") {
  for (const ScheduleSpec& spec : all_schedules())
    for (int s = 0; s < spec.num_stages; ++s) {
      CAPTURE(described(spec), s);
      const int p = spec.num_stages, m = spec.num_micro_batches, v = spec.num_chunks;
      const int slots = activation_slots(spec, s);
      switch (spec.kind) {
        case ScheduleKind::kGPipe:
          REQUIRE(slots == m);
          break;
        case ScheduleKind::k1F1B:
          REQUIRE(slots == std::min(p - s, m));
          break;
        case ScheduleKind::kZeroBubbleH1:  // of every stage what 1f1b needs on its first
          REQUIRE(slots == std::min(p, m));
          break;
        case ScheduleKind::kInterleaved1F1B: {
          const int full = v == 1 ? p - s : 2 * (p - s - 1) + (v - 1) * p + 1;
          if (m % p == 0 || v == 1)
            REQUIRE(slots == std::min(full, m * v));
          else
            REQUIRE(slots <= std::min(full, m * v));
          break;
        }
      }
    }
}

TEST_CASE("a slot belongs to one micro-batch and chunk from forward to the last backward part") {
  for (const ScheduleSpec& spec : all_schedules())
    for (int stage = 0; stage < spec.num_stages; ++stage) {
      CAPTURE(described(spec), stage);
      const std::vector<PipelineStep> steps = make_schedule(spec, stage);
      const ActivationSlots slots = assign_activation_slots(steps);
      REQUIRE(slots.slot_of_step.size() == steps.size());
      std::map<int, std::pair<int, int>> owner;
      for (size_t i = 0; i < steps.size(); ++i) {
        const int slot = slots.slot_of_step[i];
        const std::pair key(steps[i].micro_batch, steps[i].chunk);
        REQUIRE((slot >= 0 && slot < slots.count));
        if (steps[i].phase == Phase::kForward) REQUIRE(owner.emplace(slot, key).second);
        REQUIRE(owner.at(slot) == key);
        if (steps[i].phase == Phase::kBackward || steps[i].phase == Phase::kBackwardWeight)
          owner.erase(slot);
      }
      REQUIRE(owner.empty());
    }
}

TEST_CASE("the table of a schedule") {
  const ScheduleSpec zb{ScheduleKind::kZeroBubbleH1, 2, 2, 1};
  CHECK(schedule_table(zb, simulate(zb), 80) ==
        "stage 0   F0 F1 .  B0 W0 B1 W1\n"
        "stage 1   .  F0 B0 F1 B1 W0 W1\n");
  const ScheduleSpec interleaved{ScheduleKind::kInterleaved1F1B, 2, 2, 2};
  CHECK(schedule_table(interleaved, simulate(interleaved), 40) ==
        "stage 0   F0.0 F1.0 F0.1 F1.1 .    . ...\n"
        "stage 1   .    F0.0 F1.0 F0.1 B0.1 - ...\n");
}

TEST_CASE("a schedule that cannot be is an error") {
  CHECK_THROWS_AS(make_schedule({ScheduleKind::k1F1B, 2, 2, 2}, 0), Error);
  CHECK_THROWS_AS(make_schedule({ScheduleKind::k1F1B, 2, 2, 1}, 2), Error);
  CHECK_THROWS_AS(make_schedule({ScheduleKind::kInterleaved1F1B, 1, 2, 2}, 0), Error);
}
