// MemoryOfGroup: what the parameters of one group cost on this rank, by formula and as allocated.
#pragma once

#include <cstdint>
#include <string>

#include "optim/flat_layout.h"

namespace switchyard {

struct MemoryOfGroup {
  GroupKey key = {};
  int num_sharers = 1;  // d: ranks among which the state is cut
  int64_t trained_elements = 0, frozen_elements = 0;
  // stage             0     1            2
  // bf16              18    6 + 12 / d   2 + 16 / d
  // f32 (f64: twice)  16    8 + 8 / d    4 + 12 / d
  // Stage 2 with reduce_once_per_step is stage 1. A frozen element costs its weight alone.
  double bytes_per_trained_element = 0;
  double formula_bytes = 0;     // of the elements above
  int64_t padding_bytes = 0;    // what alignment adds
  int64_t staging_bytes = 0;    // copies in bucket order of weights that are trained in parts
  int64_t allocated_bytes = 0;  // the sum of the three

  // "experts over edp 2: 1.57 M trained parameters at 10 bytes, 0.52 M frozen: 16.8 MB"
  std::string text() const;
};

}  // namespace switchyard
