// HeldTensor: a part of one logical tensor of the training state that this rank holds in one piece:
// what saving and loading are made of. Between the ranks of a grid the held tensors are the whole
// state, and elements held by several ranks are equal.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/box.h"
#include "checkpoint/manifest.h"
#include "core/tensor.h"

namespace switchyard {

struct HeldTensor {
  std::string key = {};  // tensor_key(role, name); experts are one tensor each
  TensorRole role = TensorRole::kParam;
  std::vector<int64_t> shape = {};  // of the whole
  Box box = {};                     // held here; row-major, as `data` lies; never empty
  Tensor data = {};                 // flat device memory: box.numel() elements
};

}  // namespace switchyard
