// MemoryCheckpoint: the tensors of a checkpoint without files: what the ranks of a job save as
// their plan says, and what the ranks of another load.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "checkpoint/load_state.h"
#include "checkpoint/save_plan.h"
#include "checkpoint/tensor_digests.h"
#include "support/training_job.h"

namespace switchyard::test {

class MemoryCheckpoint {
 public:
  // Collective over the ranks of a job, which share `this`. Error when copies differ.
  void save(TrainerOnRank& on_rank, Communicator& world);
  // Collective; checks contents before and digests afterwards.
  void load(TrainerOnRank& on_rank, Communicator& world,
            LoadScope scope = LoadScope::kEverything) const;

  Manifest manifest = {};
  double max_over_mean_bytes = 0;

  ChunkReader reader() const;
  int64_t bytes() const;  // of all chunks

 private:
  // Adds what this rank writes to `manifest` and `files_`.
  void write(const SavePlan& plan, const std::vector<HeldTensor>& held, int rank, Backend& backend);

  std::mutex mutex_;
  std::map<std::string, std::vector<std::byte>> files_;
};

std::vector<HeldTensor> held_by(TrainerOnRank& on_rank);

}  // namespace switchyard::test
