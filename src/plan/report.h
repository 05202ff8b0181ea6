// What `switchyard plan` prints: the grid, the pieces of the model and their parameters on each
// stage, bytes of training state, the pipeline schedule, its bubble and its activation slots.
#pragma once

#include <string>

#include "config/run_config.h"

namespace switchyard {

// Of a resolved configuration.
std::string plan_text(const RunConfig& config);
// Of it, the bytes of training state: a line for each stage.
std::string memory_text(const RunConfig& config);

}  // namespace switchyard
