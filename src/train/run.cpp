#include "train/run.h"

#include <filesystem>
#include <memory>

#include "checkpoint/run_directory.h"
#include "checkpoint/storage.h"
#include "comm/collective_error.h"
#include "core/log.h"
#include "data/dataset.h"
#include "model/trainable.h"
#include "train/goodput.h"
#include "train/metrics_file.h"
#include "train/training_loop.h"
#include "train/watchdog.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;

StopSettings stop_settings(const RunConfig& config, const LaunchEnvironment& launch) {
  return {.run_directory = config.training.output_dir,
          .started_at = unix_time(),
          .max_wall_time = config.training.max_wall_time,
          .stop_margin = config.training.stop_margin,
          .slurm_job_end = launch.slurm_job_end,
          .save_interval_s = 60 * config.checkpoint.interval_minutes};
}

void create_parent(const fs::path& directory) {
  std::error_code failure;
  if (directory.has_parent_path()) fs::create_directories(directory.parent_path(), failure);
  SY_REQUIRE(kStorage, !failure, "cannot create {}: {}", directory.string(), failure.message());
}

// A run that has taken steps and has no checkpoint has lost them: nobody asked to begin anew.
void refuse_lost_run(const RunDirectory& run) {
  const fs::path metrics = fs::path(run.path()) / "metrics.jsonl";
  SY_REQUIRE(kData, !run.is_new() || !fs::exists(metrics) || read_metrics(metrics.string()).empty(),
             "{} has taken steps ({}), but holds no checkpoint: bring its step-* directories back, "
             "choose another training.output_dir, or begin anew with --allow-fresh",
             run.path(), metrics.string());
}

std::shared_ptr<RunDirectory> open_run(const RunConfig& config, const RunOptions& options,
                                       const std::string& job_id,
                                       const std::shared_ptr<Storage>& storage) {
  create_parent(config.training.output_dir);
  const RunDirectory::Options how = {.allow_fresh = options.allow_fresh, .job_id = job_id};
  // Whoever keeps the directory keeps the storage that it works on.
  const std::shared_ptr<RunDirectory> run(
      new RunDirectory(*storage, config.training.output_dir, how),
      [storage](RunDirectory* directory) { delete directory; });
  if (!options.allow_fresh) refuse_lost_run(*run);
  return run;
}

// The watchdog's last act: says why, then ends the process.
void end_in_hang(const HangReport& report, ExitRecorder& recorder, Goodput* goodput) {
  if (report.speaks) recorder.write(ExitCode::kHang, report.diagnosis.text, true);
  if (report.speaks && goodput) goodput->end_in_hang(report.seconds);
  exit_on_hang(report);
}

}  // namespace

ExitCode run_training(const RunConfig& config, const RunOptions& options, const CodeInfo& code,
                      Backend& backend, const ProcessGrid& grid, const LaunchEnvironment& launch,
                      const StopSignals& signals, ExitRecorder& recorder) {
  Communicator& world = grid.world();
  const bool is_rank_0 = world.rank() == 0;
  const StopSettings settings = stop_settings(config, launch);
  StopRequests requests(settings, world.rank(), unix_time, [&] { return signals.first(); });
  ParameterCount count;  // first of all: a wrong pattern leaves no run directory behind
  agree(world, [&] { count = count_parameters(config, backend); });
  std::optional<Dataset> dataset;
  agree(world, [&] { dataset.emplace(open_dataset(config)); });

  const auto storage = std::make_shared<Storage>();
  std::shared_ptr<RunDirectory> run;
  std::optional<Goodput> goodput;
  agree(world, [&] {
    if (!is_rank_0) return;
    run = open_run(config, options, launch.job_id, storage);
    recorder.begin_attempt(run->attempt());
    const fs::path account = fs::path(run->path()) / "goodput.json";
    if (options.allow_fresh) fs::remove(account);  // of what has been put aside
    goodput.emplace(account.string(), unix_time);
  });
  const auto attempt = static_cast<int64_t>(
      world.all_reduce_max_host(is_rank_0 ? static_cast<double>(run->attempt()) : 0));
  if (!is_rank_0) recorder.begin_attempt(attempt);
  std::string run_id = is_rank_0 ? run->id_of(0).run_id : "";
  world.broadcast_host(run_id, 0);

  const JobContext job = {.config = config,
                          .options = options,
                          .code = code,
                          .backend = backend,
                          .grid = grid,
                          .dataset = *dataset,
                          .count = count,
                          .requests = requests,
                          .recorder = recorder,
                          .goodput = goodput ? &*goodput : nullptr,
                          .storage = storage,
                          .run = run,
                          .run_id = run_id,
                          .advice = advice_on_stopping(launch, settings),
                          .attempt = attempt};
  ExitCode end = ExitCode::kOk;
  const auto work = [&] { end = TrainingLoop(job).run(); };
  if (!config.watchdog.enabled) {
    work();
    return end;
  }
  Watchdog watchdog(config.watchdog,
                    {.directory = config.training.output_dir,
                     .attempt = attempt,
                     .num_layers = config.model.num_hidden_layers},
                    backend.marks(), world,
                    [&](const HangReport& report) { end_in_hang(report, recorder, job.goodput); });
  watchdog.run(work);
  return end;
}

}  // namespace switchyard
