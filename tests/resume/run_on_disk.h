// Checkpoints of small training jobs on disk, step by step: what the training loop does with a run
// directory (train/training_loop.h), under the control of a test.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpointer.h"
#include "checkpoint/manifest.h"
#include "support/training_job.h"
#include "train/resume.h"
#include "train/training_state.h"

namespace switchyard::test {

// The run directory of a trainer. Collective; keeps every checkpoint.
class RunOnDisk {
 public:
  // Takes the directory, which need not exist. References are kept.
  RunOnDisk(TrainerOnRank& on_rank, Communicator& world, const std::string& directory,
            bool async = true, int64_t max_file_bytes = kMaxFileBytes);

  // What a resume does; false where nothing is to go on from.
  bool load_newest();
  void save();  // the step at hand; it is durable when this returns
  double max_over_mean_bytes() const { return checkpointer_->max_over_mean_bytes(); }

 private:
  TrainerOnRank& on_rank_;
  Communicator& world_;
  std::string directory_;
  std::shared_ptr<RunDirectory> run_;  // of rank 0
  std::optional<Checkpointer> checkpointer_;
};

// Fills the trainer from that step of the run, as resuming does: the configuration is compared, and
// digests afterwards.
void load_step(TrainerOnRank& on_rank, Communicator& world, const std::string& directory,
               int64_t step);

std::vector<HeldTensor> held_by(TrainerOnRank& on_rank);

using Digests = std::map<std::string, uint64_t>;  // by key

// Of all that the trainer's ranks hold; copies are equal. Collective; the same on all ranks.
Digests digests_of(TrainerOnRank& on_rank, Communicator& world);

// What a checkpoint says it holds. Every byte of it is read and checked.
struct SavedStep {
  Manifest manifest = {};
  Digests digests = {};
  TrainingState state = {};
};
SavedStep saved_step(const std::string& directory, int64_t step);

}  // namespace switchyard::test
