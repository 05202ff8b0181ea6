// Which checkpoints of a run are kept. Kept are: the newest few, every so many steps for ever, at
// least two that are whole, the one that the job at work was loaded from, whose bytes it knows to
// be right, and what a user has pinned with a file PINNED inside. Removed is only what this run has
// written: never a directory whose manifest cannot be read or is another run's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/run_names.h"

namespace switchyard {

struct Retention {
  int64_t keep_last = 3;
  int64_t keep_every = 0;  // steps; 0: none for ever
};

// What can go: steps, and superseded checkpoints that the run has got past. Reads only; a running
// job is not disturbed. `loaded_step`: -1 if the run was not loaded.
std::vector<RunEntry> expired_entries(const std::string& run, const std::string& run_id,
                                      const Retention& retention, int64_t loaded_step);

}  // namespace switchyard
