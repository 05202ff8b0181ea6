// `switchyard train` and what other commands share with it: reading a configuration on all ranks.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/process_grid.h"
#include "config/run_config.h"

namespace switchyard {

struct ConfigOptions {
  std::string path;
  std::vector<std::string> overrides;  // --set a.b=value
};

// Rank 0 reads the file, all ranks parse it for `num_ranks`. Collective; throws CollectiveError.
RunConfig read_config(const ConfigOptions& options, Communicator& world);

// The grid that a resolved configuration asks for.
GridSizes grid_sizes(const RunConfig& config);

// Warns when this rank's affinity mask holds fewer cores than it has threads, or than its share of
// the machine: Open MPI binds each of one or two ranks to a single core unless told otherwise.
void warn_about_binding(int num_threads, int world_size);

int run_train(const ConfigOptions& options, Communicator& world);

}  // namespace switchyard
