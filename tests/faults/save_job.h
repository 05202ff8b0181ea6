// SaveJob: a job as far as saving is concerned: ranks (threads) that hold a few tensors, go on from
// the newest checkpoint, and in every step change all elements and save. What an element must be
// follows from the step, so that any mixture of two steps is noticed.
//
// It says in the log, beside what Checkpointer says: "resumed step N".
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpointer.h"
#include "checkpoint/held_tensor.h"
#include "checkpoint/storage.h"

namespace switchyard::test {

// What one rank holds: of a matrix and its moment its rows, and copies of two vectors.
class StepState {
 public:
  StepState(int rank, int num_ranks, int64_t columns = 6);

  void set(int64_t step);          // every element
  bool is_of(int64_t step) const;  // every element
  const std::vector<HeldTensor>& held() const { return held_; }
  int64_t bytes() const;

 private:
  void add(TensorRole role, const std::string& name, DType dtype, std::vector<int64_t> shape,
           Box box);

  std::vector<std::vector<std::byte>> memory_;
  std::vector<HeldTensor> held_;
};
// Its tensors of which every rank has a copy, in the order of held().
constexpr size_t kFirstCopied = 2, kNumHeld = 4;

struct SaveJob {
  std::string directory = {};
  int64_t last_step = 3;
  int num_ranks = 4;
  SaveSettings settings = {.retention = {.keep_last = 2}};
  int64_t columns = 6;
  std::shared_ptr<Storage> storage = std::make_shared<Storage>();
  // On every rank; the save of `step` has begun. By default, waits for its end.
  std::function<void(Checkpointer&, StepState&, int64_t step)> after_begin = nullptr;
  bool drains = true;  // waits for a save under way before it ends
};

// Of files that cut what every rank writes into several.
constexpr int64_t kSmallFileBytes = 4096 + 40;

// Error of the job's. The fault rank of every thread is its rank.
void run_save_job(const SaveJob& job);

SaveContents contents_of(int64_t step);

// Whether a checkpoint is valid in every byte, and every element is of its step.
bool is_whole(const std::string& directory, int64_t step);
// Committed steps that are, the newest first.
std::vector<int64_t> whole_steps(const std::string& directory);
// What retention leaves: the newest, and the step that the job was loaded from, if it was.
std::vector<int64_t> newest_and_loaded(std::vector<int64_t> newest,
                                       const std::vector<int64_t>& loaded);
// Names that only a job at work may leave: staging, deleting, replaced.
std::vector<std::string> leftovers(const std::string& directory);

}  // namespace switchyard::test
