// `switchyard train` and what other commands share with it: reading a configuration on all ranks.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/run_config.h"
#include "train/run.h"
#include "train/stop_requests.h"

namespace switchyard {

struct ConfigOptions {
  std::string path;
  std::vector<std::string> overrides;  // --set a.b=value
};

struct TrainCommand {
  ConfigOptions config;
  RunOptions run;
};

// On this process alone, for a job of `num_ranks` ranks.
RunConfig read_config(const ConfigOptions& options, int num_ranks);
// Rank 0 reads the file, all ranks parse it for the ranks of `world`. Collective; throws
// CollectiveError.
RunConfig read_config(const ConfigOptions& options, Communicator& world);

// Where the CPU computes: warns when this rank's affinity mask holds fewer cores than it has
// threads, or than its share of the machine: Open MPI binds each of one or two ranks to a single
// core unless told otherwise. Also passes on advice_on_blas().
void warn_about_speed(const RunConfig& config, const Communicator& world);

// What SLURM and Open MPI's mpirun tell their processes.
LaunchEnvironment launch_environment();

// Prints training.output_dir, for launch scripts; starts nothing.
int print_run_directory(const ConfigOptions& options);

int run_train(const TrainCommand& command, Communicator& world);

}  // namespace switchyard
