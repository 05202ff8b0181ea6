// Resuming is as if nothing had happened: by induction over the steps of a run, from checkpoints on
// disk. Whatever step it is resumed from, the next one is the one that was taken, bit by bit.
#include <cstring>
#include <mutex>

#include "comm/thread_communicator.h"
#include "equivalence/layouts.h"
#include "resume/run_on_disk.h"
#include "resume/watched_backend.h"
#include "support/catch.h"
#include "train/live_state.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr int64_t kSteps = 20, kWarmupSteps = 8, kSpoiltStep = 6;

// Two MoE layers of three, router biases that learn, two micro-batches per step, a learning rate
// that warms up until step 8, losses judged from the third on, and an epoch of 90 samples, which
// ends in the middle of step 12.
RunConfig eventful_config(const TokenFixture& tokens, DType real) {
  RunConfig config = small_job_config(tokens.prefix());
  config.fp64.enabled = real == DType::kF64;
  config.bf16.enabled = real == DType::kBF16;
  config.gradient_accumulation_steps = 2;
  config.gradient_clipping = 1.0;
  config.moe.num_shared_experts = 1;
  config.moe.router_bias_update_rate = 0.01;
  config.scheduler.type = SchedulerType::kWarmupCosineLR;
  config.scheduler.params.warmup_num_steps = kWarmupSteps;
  config.scheduler.params.total_num_steps = kSteps;
  config.loss_spike = {.policy = SpikePolicy::kSkip, .z_score = 0.7, .window = 3};
  return config;
}

// One step. In step kSpoiltStep, a tensor of rank 0 is NaN for a while, and the step is skipped.
StepReport take_step(TrainerOnRank& on_rank, Communicator& world) {
  Trainer& trainer = on_rank.trainer;
  if (trainer.step() + 1 != kSpoiltStep) return trainer.train_step();
  const Bits good = bits_of(trainer);
  const Tensor weight = trainer.parameters()[0]->weight;
  if (world.rank() == 0) std::memset(weight.raw(), 0xFF, static_cast<size_t>(weight.bytes()));
  const StepReport report = trainer.train_step();
  write_bits(trainer, good);
  return report;
}

// What two steps that are the same have in common.
bool is_same(const StepReport& a, const StepReport& b) {
  const auto same = [](double x, double y) { return std::memcmp(&x, &y, sizeof x) == 0; };
  return a.step == b.step && a.tokens == b.tokens && a.outcome == b.outcome &&
         a.skip_reason == b.skip_reason && a.skipped_steps == b.skipped_steps &&
         a.consecutive_skipped_steps == b.consecutive_skipped_steps && same(a.lm_loss, b.lm_loss) &&
         same(a.grad_norm, b.grad_norm) && same(a.learning_rate, b.learning_rate);
}

struct StraightRun {
  std::vector<StepReport> reports;  // of steps 1 on
  Digests last;                     // after the last step
};

// The run without interruption; with a checkpoint of every step in `directory`, if one is given.
StraightRun run_straight(const RunConfig& config, int ranks, const std::string& directory) {
  StraightRun run;
  run_ranks(ranks, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    std::optional<RunOnDisk> disk;
    if (!directory.empty()) disk.emplace(on_rank, world, directory);
    if (disk) disk->save();
    StraightRun mine;
    while (on_rank.trainer.step() < kSteps) {
      mine.reports.push_back(take_step(on_rank, world));
      if (disk) disk->save();
    }
    mine.last = digests_of(on_rank, world);
    if (world.rank() == 0) run = std::move(mine);
  });
  return run;
}

// Whatever is not loaded shows. A field that is added must be added here.
TrainingState garbage_state() {
  TrainingState state;
  auto& [step, next_sample, tokens, updates, skipped_steps, consecutive_skipped_steps,
         accepted_losses, skipped_samples, dataset] = state;
  step = 1'000'003;
  next_sample = 77'777;
  tokens = 5;
  updates = 1'000'000;
  skipped_steps = 3;
  consecutive_skipped_steps = 2;
  accepted_losses.assign(9, -1e300);
  skipped_samples = {{.first = 1, .count = 2, .step = 3, .reason = "garbage"}};
  dataset = "garbage";  // of the job, not of the checkpoint
  return state;
}

// What a trainer has been through before it loads.
enum class Before {
  kNothing,     // as after `switchyard train`
  kGarbage,     // in every byte that steps change
  kOtherSteps,  // of the same run
};

void prepare(TrainerOnRank& on_rank, WatchedBackend& backend, Before before) {
  switch (before) {
    case Before::kNothing:
      return;
    case Before::kGarbage:
      backend.remember_contents();
      for (int i = 0; i < 2; ++i) on_rank.trainer.train_step();
      on_rank.trainer.optimizer().wait_for_params();
      backend.write_garbage_where_changed();
      on_rank.trainer.restore(garbage_state());
      return;
    case Before::kOtherSteps:
      for (int i = 0; i < 2; ++i) on_rank.trainer.train_step();
  }
}

// Resumes from `step`, takes one step and compares all there is with what the run has saved.
void check_step(const RunConfig& config, Communicator& world, const std::string& directory,
                int64_t step, const StepReport& straight, Before before) {
  WatchedBackend backend;
  TrainerOnRank on_rank(config, world, &backend);
  prepare(on_rank, backend, before);
  load_step(on_rank, world, directory, step);
  const StepReport report = take_step(on_rank, world);
  SY_CHECK(is_same(report, straight),
           "step {}: loss {} and norm {} after a resume, {} and {} without", report.step,
           report.lm_loss, report.grad_norm, straight.lm_loss, straight.grad_norm);
  const Digests digests = digests_of(on_rank, world);
  if (world.rank() != 0) return;
  const SavedStep saved = saved_step(directory, step + 1);
  for (const auto& [key, digest] : digests)
    SY_CHECK(saved.digests.at(key) == digest, "step {}: {} differs after a resume", step + 1, key);
  SY_CHECK(saved.digests.size() == digests.size(), "{} tensors, saved were {}", digests.size(),
           saved.digests.size());
  SY_CHECK(saved.state == on_rank.trainer.training_state(), "step {}: the training state differs",
           step + 1);
}

struct ResumeCase {
  GridJob job;
  DType real;
};

// Everything that a run can meet happens in it.
void check_eventful(const StraightRun& run) {
  CHECK(run.reports[kSpoiltStep - 1].outcome == StepOutcome::kNotFinite);
  CHECK(std::any_of(run.reports.begin(), run.reports.end(), [](const StepReport& report) {
    return report.outcome == StepOutcome::kLossSpike;
  }));
  CHECK(run.reports[0].learning_rate < run.reports[kWarmupSteps - 1].learning_rate);
  CHECK(run.reports[kSteps - 1].learning_rate < run.reports[kWarmupSteps - 1].learning_rate);
}

void check_case(const ResumeCase& what, const std::vector<Before>& before) {
  const TokenFixture tokens(100, 8, 29);
  const RunConfig config = what.job.on(eventful_config(tokens, what.real));
  CAPTURE(what.job.name(), name_of(what.real));
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  const StraightRun straight = run_straight(config, what.job.ranks(), run);
  check_eventful(straight);
  CHECK(saved_step(run, kSteps).digests == straight.last);
  run_ranks(what.job.ranks(), [&](Communicator& world) {
    for (int64_t step = 0; step < kSteps; ++step)
      check_step(config, world, run, step, straight.reports[static_cast<size_t>(step)],
                 before[static_cast<size_t>(step) % before.size()]);
  });
}

}  // namespace

// Variants: ZeRO stage i % 3; 1F1B, interleaved, zero-bubble, GPipe by i % 4 (layouts.h).
TEST_CASE("resumed from any step, the next one is the same, bit by bit") {
  const ResumeCase what = GENERATE(
      ResumeCase{{{.dp = 1}, 0}, DType::kF32}, ResumeCase{{{.dp = 2, .ep = 2}, 1}, DType::kBF16},
      ResumeCase{{{.dp = 2}, 14}, DType::kF32},
      ResumeCase{{{.dp = 2, .tp = 2, .ep = 2, .etp = 2}, 2}, DType::kBF16},
      ResumeCase{{{.tp = 2, .pp = 2}, 6}, DType::kBF16},
      ResumeCase{{{.dp = 2, .pp = 2}, 1}, DType::kF32},
      ResumeCase{{{.dp = 4, .ep = 2}, 5}, DType::kBF16});
  check_case(what, {Before::kNothing});
}

TEST_CASE("so it is where everything held garbage before, or other steps") {
  const ResumeCase what = GENERATE(ResumeCase{{{.dp = 2}, 1}, DType::kBF16},
                                   ResumeCase{{{.dp = 2, .ep = 2, .etp = 1}, 2}, DType::kF32},
                                   ResumeCase{{{.pp = 2}, 9}, DType::kBF16});
  check_case(what, {Before::kGarbage, Before::kOtherSteps});
}

TEST_CASE("saving changes nothing") {
  const TokenFixture tokens(100, 8, 29);
  const RunConfig config = GridJob{{.dp = 2, .ep = 2}, 1}.on(eventful_config(tokens, DType::kBF16));
  const TemporaryDirectory directory;
  const StraightRun saves = run_straight(config, 2, directory.file("run"));
  const StraightRun saves_never = run_straight(config, 2, "");
  CHECK(saves.last == saves_never.last);
  for (size_t i = 0; i < saves.reports.size(); ++i)
    CHECK(is_same(saves.reports[i], saves_never.reports[i]));
}
