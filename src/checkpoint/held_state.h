// Held state: everything of the training state that this rank holds, as parts of global tensors.
#pragma once

#include <vector>

#include "checkpoint/held_tensor.h"
#include "model/parameter.h"
#include "optim/zero_optimizer.h"

namespace switchyard {

// Weights (role kParam), master weights where they differ from the weights (bf16), both moments,
// and `state` (kState); views of the memory of all of these. Each expert is a tensor of its own;
// what is not trained has no moments; slices of flat buffers come as the boxes that they decompose
// into; padding does not appear. Weights may be read afterwards (waits for those under way). The
// order is the same for the same configuration, layout and rank.
std::vector<HeldTensor> held_state(const ParameterList& parameters, const StateList& state,
                                   ZeroOptimizer& optimizer);

// Those that --init-from takes over: weights and state.
std::vector<HeldTensor> weights_of(const std::vector<HeldTensor>& held);

}  // namespace switchyard
