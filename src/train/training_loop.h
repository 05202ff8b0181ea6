// TrainingLoop: one job on a run directory that is its own: goes on from a checkpoint or commits
// step 0, takes steps, validates, saves, and ends finished or stopped.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/checkpointer.h"
#include "checkpoint/run_directory.h"
#include "model/trainable.h"
#include "train/exit_record.h"
#include "train/goodput.h"
#include "train/metrics.h"
#include "train/replica_check.h"
#include "train/run.h"
#include "train/stop_requests.h"
#include "train/trainer.h"

namespace switchyard {

// What the loop works with; all of it outlives the loop.
struct JobContext {
  const RunConfig& config;
  const RunOptions& options;
  const CodeInfo& code;
  Backend& backend;
  const ProcessGrid& grid;
  const Dataset& dataset;
  ParameterCount count;
  StopRequests& requests;
  ExitRecorder& recorder;
  Goodput* goodput;  // of rank 0; null elsewhere
  std::shared_ptr<Storage> storage;
  std::shared_ptr<RunDirectory> run;  // of rank 0; null elsewhere
  std::string run_id;
  std::string advice;  // for the log
  int64_t attempt;
};

class TrainingLoop {
 public:
  explicit TrainingLoop(const JobContext& job);

  // kOk: trained to the end; kStopped. Collective; the same on all ranks.
  ExitCode run();

 private:
  void begin();
  void begin_anew();
  void go_on_from(const std::vector<int64_t>& steps);
  void make_checkpointer();
  void check_space();
  StopDecision take_steps();
  StopDecision agree_on_stop();
  void take_step();
  void roll_back();
  void validate_if_due();
  bool is_save_due(const StopDecision& decision);
  void begin_save();
  void save_now();
  ExitCode stop(const StopDecision& decision);
  ExitCode end();
  void describe_run();
  void open_metrics(int64_t step);
  bool is_rank_0() const { return job_.run != nullptr; }

  const JobContext& job_;
  const RunConfig& config_;
  Communicator& world_;
  Trainer trainer_;
  ReplicaCheck replicas_;
  std::optional<Checkpointer> checkpointer_;
  std::optional<Metrics> metrics_;  // of rank 0
  int64_t durable_step_ = -1;       // newest checkpoint that this job loaded or committed
  int64_t newest_save_ = -1;        // committed or under way
  int64_t late_saves_ = 0;          // due while one was under way
  bool save_is_wanted_ = false;     // as soon as none is
};

}  // namespace switchyard
