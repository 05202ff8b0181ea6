// Every schedule's communication ends on every grid, and orders that do not are found out.
#include <algorithm>

#include "pipeline/communication_order.h"
#include "pipeline/messages.h"
#include "pipeline/schedules.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

std::string verdict(const std::vector<RankProgram>& programs) {
  return check_order(programs).value_or("ends");
}

std::vector<GridSizes> grids_of(int num_stages) {
  return {{.pp = num_stages},
          {.dp = 2, .tp = 2, .pp = num_stages, .ep = 2, .etp = 2},
          {.dp = 2, .tp = 2, .pp = num_stages, .ep = 4, .etp = 1},
          {.dp = 3, .tp = 1, .pp = num_stages, .ep = 3, .etp = 1}};
}

// What deadlocks: every message an operation of its own.
std::vector<RankProgram> one_message_per_operation(const std::vector<RankProgram>& programs) {
  std::vector<RankProgram> split;
  for (const RankProgram& program : programs) {
    RankProgram& mine = split.emplace_back();
    for (const Operation& operation : program) {
      if (!operation.group.empty()) mine.push_back(operation);
      for (const RankMessage& sent : operation.sends)
        mine.push_back({operation.communicator, operation.label, {}, {sent}, {}});
      for (const RankMessage& received : operation.receives)
        mine.push_back({operation.communicator, operation.label, {}, {}, {received}});
    }
  }
  return split;
}

// Groups of what the step before has made and what only the next step needs.
std::vector<RankProgram> receives_as_late_as_possible(const ScheduleSpec& spec) {
  std::vector<RankProgram> programs(static_cast<size_t>(spec.num_stages));
  for (int stage = 0; stage < spec.num_stages; ++stage) {
    const auto step_needs = [&](const PipelineStep& step) -> std::vector<RankMessage> {
      const int piece = step.chunk * spec.num_stages + stage;
      const bool is_forward = step.phase == Phase::kForward;
      const int maker = piece + (is_forward ? -1 : 1);
      if (step.phase == Phase::kBackwardWeight || maker < 0 || maker == spec.num_pieces())
        return {};
      return {
          {maker % spec.num_stages, fmt::format("{} {} {}", is_forward, step.micro_batch, piece)}};
    };
    const auto step_makes = [&](const PipelineStep& step) -> std::vector<RankMessage> {
      const int piece = step.chunk * spec.num_stages + stage;
      const bool is_forward = step.phase == Phase::kForward;
      const int user = piece + (is_forward ? 1 : -1);
      if (step.phase == Phase::kBackwardWeight || user < 0 || user == spec.num_pieces()) return {};
      return {
          {user % spec.num_stages, fmt::format("{} {} {}", is_forward, step.micro_batch, user)}};
    };
    std::vector<RankMessage> made;
    for (const PipelineStep& step : make_schedule(spec, stage)) {
      programs[static_cast<size_t>(stage)].push_back(
          {"pp", name_of(step, spec.num_chunks), {}, made, step_needs(step)});
      made = step_makes(step);
    }
    programs[static_cast<size_t>(stage)].push_back({"pp", "the end", {}, made, {}});
  }
  return programs;
}

}  // namespace

TEST_CASE("every schedule ends on one rank per stage, messages matching in their order") {
  for (const ScheduleSpec& spec : all_schedules()) {
    CAPTURE(described(spec));
    REQUIRE(verdict(make_programs(spec, {.pp = spec.num_stages})) == "ends");
  }
}

TEST_CASE("every schedule ends with the collectives of any grid between its messages") {
  for (const ScheduleSpec& spec : all_schedules())
    if (spec.num_stages <= 4 && spec.num_micro_batches % 3 != 0)
      for (const GridSizes& sizes : grids_of(spec.num_stages)) {
        CAPTURE(described(spec), sizes.dp, sizes.tp, sizes.ep, sizes.etp);
        REQUIRE(verdict(make_programs(spec, sizes)) == "ends");
      }
}

TEST_CASE("a step finds in its buffer what the piece before or after has sent") {
  for (const ScheduleSpec& spec : all_schedules()) {
    const std::vector<StageMessages> plans = plan_messages(spec);
    for (int stage = 0; stage < spec.num_stages; ++stage) {
      CAPTURE(described(spec), stage);
      const StageMessages& plan = plans[static_cast<size_t>(stage)];
      const std::vector<PipelineStep> steps = make_schedule(spec, stage);
      std::vector<const StageMessage*> buffers(static_cast<size_t>(plan.num_buffers));
      REQUIRE(plan.groups.size() == steps.size() + 1);
      REQUIRE(plan.groups[0].sends.empty());
      REQUIRE(plan.groups.back().receives.empty());
      for (size_t i = 0; i < steps.size(); ++i) {
        for (const StageMessage& message : plan.groups[i].receives) {
          auto& buffer = buffers.at(static_cast<size_t>(message.buffer));
          REQUIRE(buffer == nullptr);
          buffer = &message;
        }
        const PipelineStep& step = steps[i];
        const bool is_forward = step.phase == Phase::kForward;
        const int piece = step.chunk * spec.num_stages + stage, last = spec.num_pieces() - 1;
        const bool needs_one =
            step.phase != Phase::kBackwardWeight && piece != (is_forward ? 0 : last);
        const bool makes_one =
            step.phase != Phase::kBackwardWeight && piece != (is_forward ? last : 0);
        REQUIRE((plan.buffer_of_step[i] >= 0) == needs_one);
        if (needs_one) {
          auto& buffer = buffers.at(static_cast<size_t>(plan.buffer_of_step[i]));
          REQUIRE(buffer != nullptr);
          CHECK((buffer->kind == MessageKind::kActivation) == is_forward);
          CHECK(buffer->micro_batch == step.micro_batch);
          CHECK(buffer->chunk == step.chunk);
          buffer = nullptr;
        }
        REQUIRE(plan.groups[i + 1].sends.size() == (makes_one ? 1 : 0));
      }
      const bool is_interleaved = spec.num_chunks > 1;
      CHECK(plan.num_buffers <= (is_interleaved ? 4 : spec.kind == ScheduleKind::kGPipe ? 1 : 2));
    }
  }
}

TEST_CASE("messages one at a time deadlock 1f1b, and the cycle is named") {
  const auto programs = make_programs({ScheduleKind::k1F1B, 2, 3, 1}, {.pp = 2});
  CHECK(verdict(programs) == "ends");
  CHECK(verdict(one_message_per_operation(programs)) ==
        "rank 0 at B1 waits for rank 1 to receive activation 2 for piece 1; "
        "rank 1 at F2 waits for rank 0 to receive gradient 1 for piece 0");
}

TEST_CASE("receives as late as possible deadlock interleaved chunks, not the other schedules") {
  for (const ScheduleSpec& spec : all_schedules())
    if (spec.num_chunks == 1) {
      CAPTURE(described(spec));
      REQUIRE(verdict(receives_as_late_as_possible(spec)) == "ends");
    }
  CHECK_THAT(verdict(receives_as_late_as_possible({ScheduleKind::kInterleaved1F1B, 2, 4, 2})),
             contains_text("rank 0 at") && contains_text("; rank 1 at"));
}

TEST_CASE("two communicators in different orders are found, across stages too") {
  std::vector<RankProgram> programs = {{{"tp", "F0", {0, 1}}, {"stage", "F0", {0, 1}}},
                                       {{"tp", "F0", {0, 1}}, {"stage", "F0", {0, 1}}}};
  CHECK(verdict(programs) == "ends");
  std::swap(programs[1][0], programs[1][1]);
  CHECK(verdict(programs) ==
        "rank 0 at F0 waits for rank 1 to come to tp; rank 1 at F0 waits for rank 0 to come to "
        "stage");

  // Each stage has one rank that goes into the next collective before its messages. Either alone is
  // harmless, together all four ranks wait for each other.
  const GridSizes sizes{.dp = 1, .tp = 2, .pp = 2};
  programs = make_programs({ScheduleKind::k1F1B, 2, 2, 1}, sizes);
  const auto delay_messages = [](RankProgram& program) {
    const auto messages = std::find_if(program.begin(), program.end(),
                                       [](const Operation& op) { return op.group.empty(); });
    std::rotate(messages, messages + 1, messages + 2);
  };
  delay_messages(programs[0]);
  CHECK(verdict(programs) == "ends");
  delay_messages(programs[3]);
  CHECK(verdict(programs) ==
        "rank 0 at F1 waits for rank 1 to come to tp; "
        "rank 1 at F1 waits for rank 3 to receive activation 0 for piece 1; "
        "rank 3 at F0 waits for rank 2 to come to tp; "
        "rank 2 at F0 waits for rank 0 to send activation 0 for piece 1");
}

TEST_CASE("what does not belong together is found when it meets") {
  const ScheduleSpec spec{ScheduleKind::k1F1B, 2, 2, 1};
  std::vector<RankProgram> programs = make_programs(spec, {.pp = 2});
  std::swap(programs[0][0].sends, programs[0][1].sends);
  CHECK_THAT(verdict(programs),
             contains_text("activation 0 for piece 1\" meets \"activation 1 for"));

  programs = make_programs(spec, {.dp = 2, .pp = 2});
  programs[0][0].label = "another step";
  CHECK_THAT(verdict(programs), contains_text("another step"));
}

TEST_CASE("a message that nobody sends is found") {
  std::vector<RankProgram> programs = make_programs({ScheduleKind::kGPipe, 2, 2, 1}, {.pp = 2});
  for (RankProgram& program : programs) program.pop_back();  // the collective of the world
  programs[1].back().sends.clear();
  CHECK(verdict(programs) ==
        "rank 0 at B1 waits for rank 1 to send gradient 1 for piece 0, but that rank has finished");
}
