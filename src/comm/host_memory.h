// Copies and sums of tensors in host memory: what collectives do with the ranks' contributions.
#pragma once

#include <span>

#include "core/tensor.h"

namespace switchyard {

// out = input, element by element. Same number and type of elements.
void copy_host(Tensor out, Tensor input);

// out = inputs[0] + inputs[1] + ..., added in this order. All have the same number and type of
// elements; `out` may be one of the inputs.
void sum_host(Tensor out, std::span<const Tensor> inputs);

}  // namespace switchyard
