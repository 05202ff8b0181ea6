// A whole training run (train/run.h) whose ranks are threads, on a small model.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "checkpoint/manifest.h"
#include "support/training_job.h"
#include "train/run.h"

namespace switchyard::test {

// Saves after every step, and takes `max_steps` of them.
RunConfig training_run_config(const std::string& data, const std::string& output_dir,
                              int64_t max_steps);

struct TrainingEnd {
  ExitCode code = ExitCode::kOk;
  std::string error = {};  // "" if it returned
};
// The fault rank of every thread is its rank.
TrainingEnd train_on_threads(const RunConfig& config, int num_ranks,
                             const RunOptions& options = {});

Manifest manifest_of(const std::string& run, int64_t step);
// Digests of all its tensors.
std::map<std::string, uint64_t> digests_of(const std::string& run, int64_t step);

}  // namespace switchyard::test
