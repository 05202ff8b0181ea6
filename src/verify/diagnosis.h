// Where to look when a layout does not compute what one rank computes.
#pragma once

#include <string>
#include <vector>

#include "config/run_config.h"
#include "verify/checks.h"

namespace switchyard {

// A cut of the same ranks in which one dimension alone is left; what it cannot use goes to dp.
struct IsolatedLayout {
  std::string dimension;       // "dp", "tp", "pp", "ep", "etp"
  RunConfig config = {};       // resolved, with the batch of the original
  std::string not_valid = {};  // why such a layout cannot be, if so
  std::string grid = {};       // filled when it is tried: ProcessGrid::description()
  int64_t num_failed = 0;      // likewise
};

// Of a resolved configuration: dp, and each other dimension that it uses.
std::vector<IsolatedLayout> isolated_layouts(const RunConfig& config);

// One line. Wrong gradients at the first step with right losses point to the sums over ranks that
// the wrong parameters have in common and the right ones do not; for everything else the isolated
// layouts tell. Pure.
std::string what_is_at_fault(const std::vector<Check>& checks,
                             const std::vector<IsolatedLayout>& isolated);

}  // namespace switchyard
