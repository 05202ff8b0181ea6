// RUN/exit.json: why the last attempt at a run ended, for launch scripts and people. The status
// that a launcher returns may be that of a rank killed in the aftermath; this is the reason.
//
//   {"code": 75, "name": "stopped", "step": 120, "rank": 0, "attempt": 2, "requeue": true,
//    "reason": "SIGUSR1 (to 4 ranks)", "time": "2026-01-31T12:00:00Z"}
//
// Written by whoever knows: rank 0 for an end that all ranks share, otherwise the rank that failed.
// An attempt that leaves no record was killed.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

#include "core/error.h"

namespace switchyard {

struct ExitRecord {
  ExitCode code = ExitCode::kOk;
  int64_t step = 0;  // steps taken
  int rank = 0;      // that wrote it
  int64_t attempt = 0;
  bool requeue = false;  // started again, the run goes on as its user wants
  std::string reason = {};
  std::string time = {};  // UTC
};

// One key per line, so that a shell script can read it.
std::string to_json(const ExitRecord& record);
// None when there is no file; Error (kData) when it is not one of ours.
std::optional<ExitRecord> read_exit_record(const std::string& run_directory);

// Writes the record of this attempt. Any thread may call it.
class ExitRecorder {
 public:
  ExitRecorder(std::string run_directory, int rank)
      : run_directory_(std::move(run_directory)), rank_(rank) {}

  // The run directory is ours from here on (locked): before, nothing is written. On rank 0 the
  // record of the attempt before becomes exit.previous.json, which must have happened before
  // another rank may fail.
  void begin_attempt(int64_t attempt);
  void at_step(int64_t step) { step_ = step; }

  // Once per attempt: a record that stands already stays, unless it is kInternal, as what follows
  // from another rank's failure looks, and this one is not. Never throws; a disk that takes no
  // record is warned about.
  void write(ExitCode code, const std::string& reason, bool requeue = false) noexcept;

 private:
  void write_or_throw(ExitCode code, const std::string& reason, bool requeue);

  std::string run_directory_;
  int rank_;
  std::atomic<int64_t> attempt_ = 0, step_ = 0;  // attempt 0: not begun
  std::mutex mutex_;
};

// Runs `work` and writes the record of the error it ends in, if any, before passing that on.
void record_errors(ExitRecorder& recorder, int rank, const std::function<void()>& work);

// "2026-01-31T12:00:00Z" of Unix time.
std::string utc_text(double unix_time);

}  // namespace switchyard
