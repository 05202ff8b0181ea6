// `switchyard inspect`: looks into a run directory.
#pragma once

#include <string>

namespace switchyard {

struct InspectOptions {
  std::string run_directory;
  bool postmortem = false;
  int64_t attempt = 0;  // of the post-mortem; 0: the last
  int num_events = 60;
};

// Prints what all ranks did last, and whose fault it was.
int run_inspect(const InspectOptions& options);

}  // namespace switchyard
