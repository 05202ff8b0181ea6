// WatchedJob: `mpirun switchyard_with_faults train` on two ranks, with a fault of choice.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "core/progress_page.h"
#include "support/temporary_directory.h"

namespace switchyard::test {

// A small data set that jobs share.
class Corpus {
 public:
  Corpus();
  std::string path() const { return directory_.file("tokens"); }

 private:
  TemporaryDirectory directory_;
};

class WatchedJob {
 public:
  // `settings`: key=value as --set has them, on top of a small configuration. `fault`: as
  // core/fault_injection.h has it. `resumes`: a run of one step has ended in order before.
  WatchedJob(const Corpus& corpus, const std::vector<std::string>& settings,
             const std::string& fault, bool resumes = false);
  ~WatchedJob();
  WatchedJob(const WatchedJob&) = delete;
  WatchedJob& operator=(const WatchedJob&) = delete;

  // The exit code of mpirun; throws Error after 40 s.
  int exit_code();

  std::string run() const { return directory_.file("run"); }
  std::string log() const;
  std::string postmortem() const;
  // As the rank, or another of its host, has kept it; throws Error when there is none.
  ProgressPage page(int rank) const;

 private:
  TemporaryDirectory directory_;
  int64_t attempt_ = 1;
  pid_t mpirun_ = -1;
};

}  // namespace switchyard::test
