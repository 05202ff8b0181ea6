// Watchdog: a thread on every rank that follows the job's progress, and ends it when there is none.
// It makes no MPI calls; ranks see each other's pages through /proc on one host, and through copies
// in the run directory from host to host (train/postmortem.h).
//
// A rank stands still when it has made no mark of progress (core/progress.h) for its limit:
// watchdog.timeout, or gap_factor times the longest gap that it has seen between two marks of the
// same phase. A rank that waits for a slow one stands still, too, so the alarm is raised only when
// *every* rank stands still: a slow step, a long validation or a slow save leave marks somewhere.
//
// Then each rank that answers keeps its page and a report, whoever raised the alarm; nobody leaves
// before all have, or 5 s. The lowest of them names the culprits (train/hang_diagnosis.h), and each
// calls `on_hang`, which ends the process.
//
// All of this goes through the run directory. When that is what hangs, the watchdog's own thread
// hangs in it, too: a second thread, which touches no file, then ends a rank that stands still four
// times as long as watchdog.timeout.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "comm/communicator.h"
#include "config/run_config.h"
#include "core/progress.h"
#include "train/crash_dump.h"
#include "train/hang_diagnosis.h"

namespace switchyard {

struct HangReport {
  int rank = 0;         // this one
  bool speaks = false;  // it is the lowest that answers: others leave the log to it
  double seconds = 0;   // since its last mark
  Diagnosis diagnosis = {};
  std::string directory = {};  // where the reports lie
};

// Ends the process with kHang at once, without a word to MPI: mpirun ends the other ranks.
[[noreturn]] void exit_on_hang(const HangReport& report);

struct WatchedRun {
  std::string directory;  // exists on all ranks
  int64_t attempt = 1;
  int num_layers = 0;
};

class Watchdog {
 public:
  // Collective over `world`. Errors: kStorage when the run directory cannot be written. `on_hang`
  // runs on the watchdog's thread.
  Watchdog(const WatchdogConfig& config, WatchedRun run, Progress& marks, Communicator& world,
           std::function<void(const HangReport&)> on_hang = exit_on_hang);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // Runs `work`. When it ends in an error of this rank alone, its page is kept before that is
  // passed on. (A CollectiveError is the end of an orderly job.)
  void run(const std::function<void()>& work);

 private:
  struct Sight {  // of another rank's heart
    int64_t heartbeat_ns = 0, since_ns = 0;
  };

  void start(Communicator& world);
  std::vector<OtherPage> pages_of_host(Communicator& world) const;
  void follow();
  double period_s() const;
  bool has_slept(int64_t gap_ns) const;
  void tick();
  void follow_thread();
  void copy_head();
  bool job_stands_still(const ProgressHead& me);
  int64_t standstill_ns(const RankEvidence& rank, const ProgressHead& me);
  int64_t limit_ns(const ProgressHead& head) const;
  void raise_alarm();
  void wait_for(const std::function<bool()>& condition, double seconds) const;
  void speak(const std::vector<RankEvidence>& ranks, const Diagnosis& diagnosis) const;
  void keep(Ending ending, const std::string& message);

  const WatchdogConfig config_;
  const WatchedRun run_;
  const std::string directory_;  // of the post-mortem
  Progress& marks_;
  const int rank_, num_ranks_;
  const std::function<void(const HangReport&)> on_hang_;
  std::map<int64_t, Sight> sights_;
  int64_t copied_ns_ = 0;
  std::atomic<int64_t> ticked_ns_ = 0;
  int64_t woke_ns_ = 0;     // when the thread ran again after a time in which it did not
  bool has_ended_ = false;  // an alarm is raised once
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stops_ = false, has_stopped_ = false;  // asked to; the thread has
  std::optional<CrashDump> crash_dump_;
  std::thread thread_, last_resort_;
};

}  // namespace switchyard
