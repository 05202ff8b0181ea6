// `switchyard train` with ranks that are threads of the test: whole runs, directory and all.
#pragma once

#include <string>
#include <vector>

#include "config/run_config.h"
#include "core/error.h"
#include "support/training_job.h"
#include "train/run.h"

namespace switchyard::test {

// Without a watchdog, which would end the test. Throws what the ranks throw, as run_ranks() does.
ExitCode train(RunConfig unresolved, int ranks, const RunOptions& options = {});

// The lines that stand in RUN/metrics.jsonl, of steps and validations, without what depends on the
// clock or on the attempt.
std::vector<std::string> timeless_metrics(const std::string& directory);

}  // namespace switchyard::test
