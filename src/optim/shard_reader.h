// Reads parameters and gradients back from their slices, for proofs. Collective over the ranks that
// share the parameter; waits for the device. Allocates, so it is not for the training loop.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "optim/flat_buffer.h"

namespace switchyard {

// This rank's box, row by row: the reduced gradient (zero in frozen rows), the weight (the master
// copy where there is one).
std::vector<double> read_gradient(Backend& backend, const std::vector<FlatBuffer>& groups,
                                  const Parameter& parameter);
std::vector<double> read_weight(Backend& backend, const std::vector<FlatBuffer>& groups,
                                const Parameter& parameter);

}  // namespace switchyard
