#include "train/training_loop.h"

#include <filesystem>

#include "checkpoint/background_task.h"
#include "checkpoint/held_state.h"
#include "checkpoint/run_entries.h"
#include "checkpoint/weights.h"
#include "comm/collective_error.h"
#include "config/config.h"
#include "core/fault.h"
#include "core/log.h"
#include "train/durable_text.h"
#include "train/metrics_file.h"
#include "train/resume.h"
#include "train/run_log.h"

namespace switchyard {
namespace {

std::string in_run(const RunConfig& config, const char* name) {
  return (std::filesystem::path(config.training.output_dir) / name).string();
}

SaveSettings save_settings(const RunConfig& config, int64_t loaded_step) {
  const CheckpointConfig& checkpoint = config.checkpoint;
  return {.async = checkpoint.async,
          .timeout_s = checkpoint.save_timeout,
          .retention = {.keep_last = checkpoint.keep_last, .keep_every = checkpoint.keep_every},
          .loaded_step = loaded_step};
}

// Information only: nothing needs it to load.
nlohmann::ordered_json layout_of(const RunConfig& config, const ProcessGrid& grid) {
  const GridSizes& sizes = grid.sizes();
  return {{"ranks", grid.world().size()},
          {"dp", sizes.dp},
          {"tp", sizes.tp},
          {"pp", sizes.pp},
          {"ep", sizes.ep},
          {"etp", sizes.etp},
          {"zero_stage", config.zero_optimization.stage},
          {"virtual_stages", config.pipeline.virtual_stages}};
}

}  // namespace

TrainingLoop::TrainingLoop(const JobContext& job)
    : job_(job),
      config_(job.config),
      world_(job.grid.world()),
      trainer_(job.config, job.backend, job.grid, job.dataset),
      replicas_(job.backend, world_, trainer_.parameters(), trainer_.state(),
                trainer_.optimizer()) {}

ExitCode TrainingLoop::run() {
  if (is_rank_0()) {
    log_start(config_, job_.backend, job_.grid, job_.dataset, job_.count);
    log_memory(config_, job_.grid, trainer_.optimizer());
    if (!job_.advice.empty()) spdlog::info("{}", job_.advice);
  }
  begin();
  if (job_.goodput) job_.goodput->begin_steps(trainer_.step());
  const StopDecision decision = take_steps();
  return decision.stop ? stop(decision) : end();
}

void TrainingLoop::begin() {
  std::vector<int64_t> steps;
  if (is_rank_0()) steps = job_.run->committed_steps();
  const bool is_new = world_.all_reduce_max_host(is_rank_0() && !job_.run->is_new() ? 1 : 0) == 0;
  if (is_new)
    begin_anew();
  else
    go_on_from(job_.options.resume_step ? std::vector{*job_.options.resume_step} : steps);
  job_.recorder.at_step(trainer_.step());
  describe_run();
  open_metrics(trainer_.step());
  make_checkpointer();
  check_space();
  if (durable_step_ < 0) save_now();
}

void TrainingLoop::begin_anew() {
  std::vector<int64_t> steps;
  agree(world_, [&] {
    SY_REQUIRE(kData, !job_.options.resume_step, "{} holds no checkpoint to go on from",
               config_.training.output_dir);
    if (is_rank_0() && !job_.options.init_from.empty())
      steps = committed_steps_in(job_.options.init_from);
  });
  if (is_rank_0() && job_.attempt > 1)
    spdlog::info("attempt {} begins anew: none before it has committed a step", job_.attempt);
  if (job_.options.init_from.empty()) return;
  const Goodput::Guard guard(job_.goodput, TimeBucket::kLoad);
  const LoadedCheckpoint loaded = load_checkpoint({.run_directory = job_.options.init_from,
                                                   .steps = std::move(steps),
                                                   .scope = LoadScope::kWeights,
                                                   .checks_config = false},
                                                  config_, job_.backend, world_, trainer_);
  if (!is_rank_0()) return;
  if (!loaded.passed_over.empty()) spdlog::warn("passed over {}", loaded.passed_over);
  spdlog::info("weights of step {} of {}; everything else begins anew", loaded.step,
               job_.options.init_from);
}

void TrainingLoop::go_on_from(const std::vector<int64_t>& steps) {
  const Goodput::Guard guard(job_.goodput, TimeBucket::kLoad);
  const LoadedCheckpoint loaded = load_checkpoint({.run_directory = config_.training.output_dir,
                                                   .run_id = job_.run_id,
                                                   .steps = steps,
                                                   .overrides = job_.options.overrides},
                                                  config_, job_.backend, world_, trainer_);
  trainer_.restore(loaded.state);
  durable_step_ = newest_save_ = loaded.step;
  agree(world_, [&] {
    if (is_rank_0()) job_.run->go_back_to(loaded.step);
  });
  if (!is_rank_0()) return;
  if (!loaded.passed_over.empty())
    spdlog::warn("going on from an older checkpoint, as newer ones cannot be used: {}",
                 loaded.passed_over);
  spdlog::info("attempt {} goes on from step {}", job_.attempt, loaded.step);
  if (loaded.step >= config_.training.max_steps)
    spdlog::info("training.max_steps {} is reached already: no step is taken",
                 config_.training.max_steps);
}

// Only now: a configuration that was refused leaves no trace.
void TrainingLoop::describe_run() {
  agree(world_, [&] {
    if (!is_rank_0()) return;
    write_durably(in_run(config_, "config.json"), to_json(config_) + "\n");
    const nlohmann::ordered_json environment = {{"code", code_json(job_.code)},
                                                {"ranks", world_.size()},
                                                {"process_grid", job_.grid.description()},
                                                {"device", job_.backend.description()}};
    write_durably(in_run(config_, "environment.json"), environment.dump(2) + "\n");
  });
}

void TrainingLoop::open_metrics(int64_t step) {
  agree(world_, [&] {
    if (!is_rank_0()) return;
    const std::string path = in_run(config_, "metrics.jsonl");
    const ResumedMetrics resumed = resume_metrics(path, step);
    if (resumed.superseded_lines > 0)
      spdlog::info("{} lines of {} are superseded: steps up to {} are taken again",
                   resumed.superseded_lines, path, resumed.furthest_step);
    job_.goodput->resume(step, resumed.furthest_step);
    metrics_.emplace(path, job_.attempt, config_.training.max_steps, config_.steps_per_print);
  });
}

void TrainingLoop::make_checkpointer() {
  checkpointer_.emplace(save_settings(config_, durable_step_), world_, job_.backend,
                        held_state(trainer_.parameters(), trainer_.state(), trainer_.optimizer()),
                        job_.storage, job_.run);
}

// For the checkpoint being written, and in a new run for another one beside it.
void TrainingLoop::check_space() {
  agree(world_, [&] {
    if (!is_rank_0()) return;
    const int64_t checkpoints = durable_step_ < 0 ? 2 : 1;
    const int64_t needed = checkpoints * checkpointer_->bytes();
    const int64_t free = free_bytes(job_.run->path());
    SY_REQUIRE(kStorage, free >= needed,
               "{}: {:.1f} MB are free, expected at least {:.1f} MB, for {} checkpoint{}. Make "
               "room, or choose another training.output_dir",
               job_.run->path(), static_cast<double>(free) / 1e6, static_cast<double>(needed) / 1e6,
               checkpoints, checkpoints == 1 ? "" : "s");
  });
}

StopDecision TrainingLoop::take_steps() {
  for (;;) {
    StopDecision decision = agree_on_stop();
    checkpointer_->advance();
    if (const auto committed = checkpointer_->committed_step()) durable_step_ = *committed;
    if (decision.stop) return decision;
    if (trainer_.step() >= config_.training.max_steps) return {};
    if (is_save_due(decision)) begin_save();
    take_step();
  }
}

StopDecision TrainingLoop::agree_on_stop() {
  std::vector<double> votes = job_.requests.vote();
  world_.all_reduce_sum_host(votes);
  return job_.requests.decide(votes);
}

void TrainingLoop::take_step() {
  const StepReport report = trainer_.train_step();
  fault_point("train.step");
  if (metrics_) metrics_->add(report);
  job_.recorder.at_step(report.step);
  if (job_.goodput) job_.goodput->finish_step(report.step, report.data_time_s);
  check_skipped_steps(config_, report);
  const int64_t interval = config_.training.replica_check_interval;
  if (interval > 0 && report.step % interval == 0) replicas_.check(report.step);
  if (report.outcome == StepOutcome::kLossSpike &&
      config_.loss_spike.policy == SpikePolicy::kRollback)
    return roll_back();
  validate_if_due();
}

// Goes on from the last checkpoint, without the samples read since, and saves that at once: whoever
// goes on from here takes the same samples.
void TrainingLoop::roll_back() {
  {
    const Goodput::Guard guard(job_.goodput, TimeBucket::kCheckpoint);
    checkpointer_->finish();
  }
  {
    const Goodput::Guard guard(job_.goodput, TimeBucket::kLoad);
    std::vector<int64_t> steps;
    if (is_rank_0()) steps = job_.run->committed_steps();
    const LoadedCheckpoint loaded = load_checkpoint({.run_directory = config_.training.output_dir,
                                                     .run_id = job_.run_id,
                                                     .steps = steps,
                                                     .checks_config = false},
                                                    config_, job_.backend, world_, trainer_);
    trainer_.roll_back(loaded.state);
    checkpointer_->go_back_to(loaded.step);
  }
  job_.recorder.at_step(trainer_.step());
  metrics_.reset();
  open_metrics(trainer_.step());
  if (is_rank_0())
    spdlog::warn("rolled back to step {}; the samples read since are passed over", trainer_.step());
  durable_step_ = newest_save_ = -1;
  save_now();
  if (job_.goodput) job_.goodput->begin_steps(trainer_.step());
}

void TrainingLoop::validate_if_due() {
  const int64_t interval = config_.training.eval_interval, step = trainer_.step();
  if (interval == 0 || step % interval != 0 || step >= config_.training.max_steps) return;
  const ValidationReport validation = trainer_.validate(config_.training.eval_num_batches);
  if (metrics_) metrics_->add_validation(step, validation);
}

// The same on all ranks: what it looks at is.
bool TrainingLoop::is_save_due(const StopDecision& decision) {
  const int64_t interval = config_.checkpoint.interval_steps, step = trainer_.step();
  if (decision.save) save_is_wanted_ = true;
  if (step == newest_save_) {
    save_is_wanted_ = false;
    return false;
  }
  const bool by_interval = interval > 0 && step % interval == 0;
  if (!by_interval && !save_is_wanted_) return false;
  if (!checkpointer_->is_busy()) return true;
  if (by_interval) {
    ++late_saves_;
    if (is_rank_0())
      spdlog::warn(
          "step {} is not saved: the save of step {} is still under way ({} skipped so far); "
          "checkpoint.interval_steps {} is shorter than a save",
          step, newest_save_, late_saves_, interval);
  }
  return false;
}

void TrainingLoop::begin_save() {
  const Goodput::Guard guard(job_.goodput, TimeBucket::kCheckpoint);
  trainer_.optimizer().wait_for_params();
  newest_save_ = trainer_.step();
  save_is_wanted_ = false;
  job_.requests.saved();
  SaveContents contents = {.step = trainer_.step()};
  if (is_rank_0()) {
    contents.time = utc_text(unix_time());
    contents.code = job_.code;
    contents.config = nlohmann::ordered_json::parse(to_json(config_));
    contents.layout = layout_of(config_, job_.grid);
    contents.train = to_json(trainer_.training_state());
  }
  checkpointer_->begin(std::move(contents));
}

// Comes back when this step is durable.
void TrainingLoop::save_now() {
  const Goodput::Guard guard(job_.goodput, TimeBucket::kCheckpoint);
  checkpointer_->finish();
  if (const auto committed = checkpointer_->committed_step()) durable_step_ = *committed;
  while (durable_step_ != trainer_.step()) {
    begin_save();
    checkpointer_->finish();
    durable_step_ = checkpointer_->committed_step().value_or(-1);
  }
}

ExitCode TrainingLoop::stop(const StopDecision& decision) {
  if (is_rank_0()) spdlog::info("stopping after step {}: {}", trainer_.step(), decision.reason);
  save_now();
  if (!is_rank_0()) return ExitCode::kStopped;
  job_.recorder.write(ExitCode::kStopped, decision.reason, decision.requeue);
  job_.requests.forget_stop_file();
  metrics_->add_goodput(trainer_.step(), job_.goodput->report());
  job_.goodput->save();
  spdlog::info("stopped: the same command goes on from step {}", trainer_.step());
  return ExitCode::kStopped;
}

ExitCode TrainingLoop::end() {
  save_now();
  job_.backend.marks().enter(RunPhase::kSave);
  const std::string weights = in_run(config_, "model.safetensors");
  save_weights(weights, trainer_.parameters(), trainer_.state(), job_.backend, world_);
  if (is_rank_0()) spdlog::info("weights saved in {}", weights);

  const ValidationReport validation = trainer_.validate(0);
  agree_in_background(world_, [&] {
    if (is_rank_0()) log_validation(config_, job_.dataset, validation);
  });
  if (is_rank_0()) {
    metrics_->add_validation(trainer_.step(), validation);
    metrics_->add_goodput(trainer_.step(), job_.goodput->report());
    job_.goodput->save();
    job_.recorder.write(ExitCode::kOk, "training has finished");
  }
  job_.backend.marks().enter(RunPhase::kEnd);
  return ExitCode::kOk;
}

}  // namespace switchyard
