#include "cli/inspect.h"

#include <cstdio>

#include "core/error.h"
#include "train/postmortem.h"

namespace switchyard {

int run_inspect(const InspectOptions& options) {
  SY_REQUIRE(kConfig, options.postmortem, "inspect: say what to look at: --postmortem");
  fmt::print("{}", tell_postmortem(options.run_directory, options.attempt, options.num_events));
  return 0;
}

}  // namespace switchyard
