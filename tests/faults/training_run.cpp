#include "training_run.h"

#include <mutex>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/run_names.h"
#include "comm/thread_communicator.h"
#include "config/config.h"
#include "core/error.h"
#include "core/fault.h"

namespace switchyard::test {

RunConfig training_run_config(const std::string& data, const std::string& output_dir,
                              int64_t max_steps) {
  RunConfig config = small_job_config(data);
  config.training.max_steps = max_steps;
  config.training.output_dir = output_dir;
  config.checkpoint.interval_steps = 1;
  config.checkpoint.async = false;  // steps are shorter than saves
  config.watchdog.enabled = false;  // its threads would be many, and nothing hangs
  return config;
}

TrainingEnd train_on_threads(const RunConfig& config, int num_ranks, const RunOptions& options) {
  const StopSignals signals([](const std::string&) {});
  TrainingEnd end;
  std::mutex mutex;
  try {
    run_ranks(num_ranks, [&](Communicator& world) {
      set_fault_rank(world.rank());
      RunConfig mine = config;
      resolve(mine, num_ranks);
      CpuBackend backend(1);
      const ProcessGrid grid(world, grid_sizes(mine), &backend);
      ExitRecorder recorder(mine.training.output_dir, world.rank());
      ExitCode code = ExitCode::kOk;
      record_errors(recorder, world.rank(), [&] {
        code = run_training(mine, options, {}, backend, grid, {}, signals, recorder);
      });
      const std::scoped_lock lock(mutex);
      end.code = code;
    });
  } catch (const Error& error) {
    end = {error.code(), error.what()};
  }
  return end;
}

Manifest manifest_of(const std::string& run, int64_t step) {
  return CheckpointReader(join(run, name_of({.kind = RunEntryKind::kStep, .step = step})))
      .manifest();
}

std::map<std::string, uint64_t> digests_of(const std::string& run, int64_t step) {
  std::map<std::string, uint64_t> digests;
  for (const auto& [key, tensor] : manifest_of(run, step).tensors) digests[key] = tensor.digest;
  return digests;
}

}  // namespace switchyard::test
