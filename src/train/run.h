// The training job: takes a run directory, goes on with what is in it (train/training_loop.h),
// under the eyes of a watchdog, and says in the end why it ended.
//
//   RUN/config.json          the resolved configuration: `train RUN/config.json` is the same run
//   RUN/environment.json     program, process grid, ranks, threads, device
//   RUN/step-*/              committed checkpoints (checkpoint/run_names.h, which names the rest)
//   RUN/metrics.jsonl        one object per step (train/metrics.h)
//   RUN/exit.json            why the last attempt ended (train/exit_record.h)
//   RUN/goodput.json         where the wall time went (train/goodput.h)
//   RUN/model.safetensors    the weights when training has finished, before the last validation
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "core/code_info.h"
#include "train/exit_record.h"
#include "train/stop_requests.h"
#include "train/stop_signals.h"

namespace switchyard {

// What the user says beside the configuration.
struct RunOptions {
  std::optional<int64_t> resume_step = {};  // this checkpoint or none; by default the newest valid
  bool allow_fresh = false;                 // put aside the run that is there, and begin anew
  std::string init_from = {};  // a new run takes its weights from the newest checkpoint of this run
  // Keys of class `mathematics` (config/changes.h) that may differ from the checkpoint's.
  std::vector<std::string> overrides = {};
};

// Trains as `config` (resolved, its `device` chosen) says, to the end (kOk) or until all ranks
// have agreed to stop (kStopped). Collective over the grid's world; returns the same on all ranks.
// Errors: kLocked, kStorage, kData, kConfig for what a resume may not change, kNumeric.
ExitCode run_training(const RunConfig& config, const RunOptions& options, const CodeInfo& code,
                      Backend& backend, const ProcessGrid& grid, const LaunchEnvironment& launch,
                      const StopSignals& signals, ExitRecorder& recorder);

}  // namespace switchyard
