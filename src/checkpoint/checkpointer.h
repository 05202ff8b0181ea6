// Checkpointer: saves a running job, beside training. All ranks go through a save together, by
// votes at the borders of steps:
//
//   begin()     every rank copies what it holds (snapshot.h): for so long, training stands still
//   opening     rank 0 makes the staging directory
//   writing     every rank writes its pieces to files, and checksums and digests what it holds
//   committing  rank 0 compares copies, writes the manifest and gives the directory its name
//   cleaning    the step is committed; rank 0 removes old ones
//
// What waits for a disk is on a thread (background_task.h). Files and names are durable before the
// next phase begins, and "committed step N" is said when it is so. A save that fails on one rank
// fails on all: it is reported, its files are removed, and training goes on; so does one that hangs
// for longer than `timeout_s`. The third failure in a row is the end (kStorage).
//
// Synchronous saves (`async` false, or too little memory for the copies) go through the same phases
// inside begin(): the threads get one tensor at a time (tensor_feed.h).
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/background_task.h"
#include "checkpoint/held_tensor.h"
#include "checkpoint/rank_save.h"
#include "checkpoint/run_directory.h"
#include "checkpoint/save_plan.h"
#include "checkpoint/snapshot.h"
#include "checkpoint/tensor_feed.h"
#include "comm/communicator.h"

namespace switchyard {

struct SaveSettings {
  bool async = true;
  double timeout_s = 600;
  Retention retention = {};
  int64_t loaded_step = -1;                      // that this job has resumed from; -1: none
  std::optional<int64_t> available_memory = {};  // bytes of this host; by default, what Linux says
  int64_t max_file_bytes = kMaxFileBytes;
};

// What a manifest holds beside tensors. Read on rank 0 only, but for the step.
struct SaveContents {
  int64_t step = 0;
  std::string time = {};
  CodeInfo code = {};
  nlohmann::ordered_json config = {}, layout = {}, train = {};
};

class Checkpointer {
 public:
  static constexpr int kMaxFailuresInARow = 3;

  // Collective over `world`, from which a group for votes is split off. `held` (held_state()) stays
  // where it is. `run`: on rank 0; null elsewhere. Warns where memory is too small for copies.
  Checkpointer(const SaveSettings& settings, Communicator& world, Backend& backend,
               std::vector<HeldTensor> held, std::shared_ptr<Storage> storage,
               std::shared_ptr<RunDirectory> run);
  // What was not committed is not. Waits for this rank's thread, but not for long.
  ~Checkpointer();
  Checkpointer(const Checkpointer&) = delete;
  Checkpointer& operator=(const Checkpointer&) = delete;

  int64_t bytes() const { return plan_->total_bytes(); }  // of the tensors of a checkpoint
  double max_over_mean_bytes() const { return plan_->max_over_mean_bytes(); }

  // The rest is collective, between steps; the same on all ranks.
  bool is_busy() const { return phase_ != Phase::kIdle; }
  // Weights may be read (ZeroOptimizer::wait_for_params()); not busy. CollectiveError (kInternal)
  // where copies of the same tensor differ; (kStorage) at the third failure in a row.
  void begin(SaveContents contents);
  // A save under way comes as far as it can without waiting. Errors: as begin().
  void advance();
  // Until it is committed or has failed.
  void finish();

  // The last by this object, since go_back_to().
  std::optional<int64_t> committed_step() const { return committed_; }
  // RunDirectory::go_back_to() on rank 0; collective, not busy.
  void go_back_to(int64_t step);

 private:
  enum class Phase { kIdle, kOpening, kWriting, kCommitting, kCleaning, kDiscarding };
  enum class TaskState { kRuns, kDone, kFailed, kHangs };

  void choose_mode(const SaveSettings& settings);
  HeldBytes held_bytes();
  void serve_writer();
  void start(Phase phase, std::function<void()> work);
  void start_on_rank_0(Phase phase, std::function<void(RunDirectory&)> work);
  TaskState task_state() const;
  TaskState vote();
  void enter_next_phase();
  void start_opening();
  void start_writing();
  void start_committing();
  void conclude();
  void handle_failure(TaskState mine);
  bool is_tidying() const { return phase_ == Phase::kCleaning || phase_ == Phase::kDiscarding; }
  std::string text_of_files() const;
  std::string failure_text(TaskState mine) const;
  void log_failure(const std::vector<std::string>& texts) const;
  void abandon_task();

  const SaveSettings settings_;
  std::unique_ptr<Communicator> control_;
  Backend& backend_;
  const std::vector<HeldTensor> held_;
  std::shared_ptr<const SavePlan> plan_;
  std::shared_ptr<Storage> storage_;
  std::shared_ptr<RunDirectory> run_;
  std::shared_ptr<std::mutex> run_mutex_;  // of *run_, which a hanging thread may still use
  bool is_async_ = true;
  std::shared_ptr<Snapshot> snapshot_;  // of asynchronous saves
  std::shared_ptr<TensorFeed> feed_;    // of a synchronous save

  BackgroundTask task_;
  Phase phase_ = Phase::kIdle;
  double phase_began_ = 0, save_began_ = 0;  // seconds of a steady clock
  SaveContents contents_;
  std::shared_ptr<std::string> staging_;  // directory, filled by the task that makes it
  std::shared_ptr<RankReport> report_;    // filled by the task that writes
  int failures_ = 0;                      // in a row
  std::optional<int64_t> committed_;
};

}  // namespace switchyard
