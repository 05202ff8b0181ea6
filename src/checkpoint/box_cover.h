// Whether boxes are a partition of a tensor, in time proportional to their number.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/box.h"

namespace switchyard {

// True if every element of a tensor of `shape` lies in exactly one of the boxes, each of which
// fits it. Wrong answers are always "true", and once in 2^57.
bool cover_once(const std::vector<const Box*>& boxes, std::span<const int64_t> shape);

}  // namespace switchyard
