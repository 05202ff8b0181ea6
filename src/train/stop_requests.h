// StopRequests: what asks a run to stop or to save now, looked at between steps.
//
//   SIGUSR1, SIGTERM, SIGINT   to any rank (train/stop_signals.h)
//   RUN/STOP, RUN/SAVE         files that somebody makes; removed when they are acted on (STOP:
//   when
//                              what it asks for is on the disk), so that the next start goes on
//   training.max_wall_time, the end of the SLURM job: training.stop_margin seconds before them
//   checkpoint.interval_minutes: a save when the last one began so long ago
//
// Ranks see these at different moments, so they agree: the votes of all ranks are summed, once per
// step, and every rank decides on the same sums. Files and clocks are looked at by rank 0 alone,
// files at most every half second.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace switchyard {

// What the launcher told in the environment, read by cli/: the library reads no environment.
struct LaunchEnvironment {
  std::string job_id = {};                         // of the scheduler, for people
  std::optional<double> slurm_job_end = {};        // Unix time (SLURM_JOB_END_TIME)
  std::optional<double> mpirun_kill_delay_s = {};  // under Open MPI's mpirun: SIGTERM to SIGKILL
};

struct StopSettings {
  std::string run_directory = {};
  double started_at = 0;                      // Unix time from which max_wall_time counts
  double max_wall_time = 0, stop_margin = 0;  // seconds; 0: no limit
  std::optional<double> slurm_job_end = {};
  double save_interval_s = 0;  // 0: no saves by time
};

// The same on every rank.
struct StopDecision {
  bool stop = false;        // after the step just taken: save, exit with kStopped
  bool save = false;        // save and go on
  bool requeue = false;     // of a stop: the job wants to be started again, to go on
  std::string reason = {};  // of a stop
};

class StopRequests {
 public:
  // `now` gives Unix time, `signal` the signal that has come to this rank (0: none).
  StopRequests(StopSettings settings, int rank, std::function<double()> now,
               std::function<int()> signal);

  // What this rank has seen. Called between steps.
  std::vector<double> vote();
  // `sums`: of the votes of all ranks.
  StopDecision decide(std::span<const double> sums);
  // A save begins: the next by time is due one interval from now.
  void saved() { last_save_ = now_(); }
  // Rank 0, when the run has stopped with its save on the disk. (Without one the file stays, so
  // that a restart stops, too.)
  void forget_stop_file();

 private:
  enum Wish : size_t {
    kUsr1,
    kTerm,
    kInt,
    kStopFile,
    kWallTime,
    kJobEnd,
    kSaveFile,
    kSaveTime,
    kNumWishes
  };

  void look_for_files();
  std::string reason_of(Wish wish, double ranks) const;

  StopSettings settings_;
  int rank_;
  std::function<double()> now_;
  std::function<int()> signal_;
  double next_look_ = 0, last_save_;
  bool saw_stop_file_ = false, saw_save_file_ = false;
  bool save_file_stays_ = false;  // it cannot be removed, and was acted on
};

// For the log, once at the start: how to stop this run without losing steps, where SIGTERM to
// mpirun would kill it sooner than it can save. "" where there is nothing to say.
std::string advice_on_stopping(const LaunchEnvironment& environment, const StopSettings& settings);

double unix_time();

}  // namespace switchyard
