// `switchyard inspect`: looks into a run directory or a checkpoint.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace switchyard {

struct InspectOptions {
  std::vector<std::string> paths;  // run directories or checkpoints: one, to compare two
  bool tensors = false;            // a line for each
  bool verify = false, diff = false, garbage = false, postmortem = false;  // one at most
  bool dry_run = false;                                                    // of `garbage`
  std::optional<int64_t> keep_last = {}, keep_every = {};  // by default, as the run says
  int64_t attempt = 0;                                     // of the post-mortem; 0: the last
  int num_events = 60;
};

// Returns the exit code: 0; of --verify, that of the first problem; of --diff, kMismatch where the
// two differ.
int run_inspect(const InspectOptions& options);

}  // namespace switchyard
