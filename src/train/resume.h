// Resume: a job goes on from a checkpoint, whatever layout wrote it.
//
// Candidates are tried from the newest on. One that is not whole, cannot be read twice in a row, or
// does not hold what this job needs, is passed over on all ranks alike, and the log says so once;
// but one that a later version of the program has written ends the search. Nothing here ever falls
// back to starting anew.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/load_state.h"
#include "comm/communicator.h"
#include "config/run_config.h"
#include "train/trainer.h"
#include "train/training_state.h"

namespace switchyard {

// What of which run a job wants to load.
struct LoadRequest {
  std::string run_directory = {};
  std::string run_id = {};          // that checkpoints must be of; "": any
  std::vector<int64_t> steps = {};  // candidates, in order; rank 0's count
  LoadScope scope = LoadScope::kEverything;
  // Keys of class `mathematics` that may differ from the checkpoint's configuration; "data.path":
  // the tokens may be others, too.
  std::vector<std::string> overrides = {};
  bool checks_config = true;  // whether such changes are looked for at all
};

struct LoadedCheckpoint {
  int64_t step = 0;
  TrainingState state = {};
  std::string passed_over = {};  // why newer candidates were not used; "" for none
};

// Fills the trainer's tensors, and compares their digests with the manifest's: weights, and, with
// kEverything, moments, master weights and state. Trainer::restore() is the caller's. Collective;
// the same on all ranks. CollectiveError: kConfig for changes of the configuration that a resume
// may not make (config/changes.h), kData when no candidate can be loaded, or one is of a later
// version.
LoadedCheckpoint load_checkpoint(const LoadRequest& request, const RunConfig& config,
                                 Backend& backend, Communicator& world, Trainer& trainer);

}  // namespace switchyard
