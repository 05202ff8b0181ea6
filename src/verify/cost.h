// What a proof costs, roughly: enough to tell seconds from hours.
#pragma once

#include <cstdint>

#include "config/run_config.h"

namespace switchyard {

// In f64, of the layout and the run on one rank.
struct ProofCost {
  double bytes = 0;  // at the peak, of one machine that has all ranks
  double flops = 0;  // of all ranks together
};

// `config` is resolved.
ProofCost cost_of_proof(const RunConfig& config, int64_t steps);

}  // namespace switchyard
