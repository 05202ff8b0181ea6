// Initial weights, by name and global index: the same on every grid.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "model/parameter.h"

namespace switchyard {

// Writes parameter.weight. `range` is the standard deviation of Init::kNormal.
void initialize(Backend& backend, const Parameter& parameter, double range, uint64_t seed);

}  // namespace switchyard
