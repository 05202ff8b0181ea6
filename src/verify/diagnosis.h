// Where to look when a layout does not compute what one rank computes.
#pragma once

#include <string>
#include <vector>

#include "config/run_config.h"
#include "verify/checks.h"

namespace switchyard {

// A layout that uses one dimension only, on the first ranks of the job.
struct IsolatedLayout {
  std::string dimension;  // "dp", "tp", "pp", "ep", "etp"
  int ranks = 1;
  RunConfig config = {};       // resolved for them, with the batch of the original
  std::string not_valid = {};  // why there can be none, if so
  std::string grid = {};       // filled when it is tried: ProcessGrid::description()
  int64_t num_failed = 0;      // likewise
};

// One for each dimension that a resolved configuration uses.
std::vector<IsolatedLayout> isolated_layouts(const RunConfig& config);

// One line. Wrong gradients at the first step with right losses point to the sums over ranks that
// the wrong parameters have in common and the right ones do not; a right first step with wrong
// weights behind it to the optimizer; for everything else the isolated layouts tell. Pure.
std::string what_is_at_fault(const std::vector<Check>& checks,
                             const std::vector<IsolatedLayout>& isolated);

}  // namespace switchyard
