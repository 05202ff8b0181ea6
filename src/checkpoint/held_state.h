// Held state: everything of the training state that this rank holds, as parts of global tensors.
#pragma once

#include <vector>

#include "checkpoint/held_tensor.h"
#include "model/parameter.h"
#include "optim/zero_optimizer.h"

namespace switchyard {

// Weights (role kParam) and `state` (kState), in this order: what files of weights hold. Each
// expert is a tensor of its own. Views of Parameter::weight and
// StateTensor::tensor; tensors of which this rank has nothing do not appear.
std::vector<HeldTensor> held_weights(const ParameterList& parameters, const StateList& state);

// The same, and of what is trained both moments and, where they differ from the weights (bf16),
// master weights. Slices of flat buffers come as the boxes that they decompose into; padding does
// not appear. Weights may be read afterwards (waits for those under way). The order is the same for
// the same configuration, layout and rank.
std::vector<HeldTensor> held_state(const ParameterList& parameters, const StateList& state,
                                   ZeroOptimizer& optimizer);

}  // namespace switchyard
