// Manifest: which tensors a checkpoint holds, and in which chunks they lie. Names, shapes and boxes
// are global: no layout is needed to load.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/box.h"
#include "core/dtype.h"

namespace switchyard {

// A box of a tensor, row-major and contiguous in a file.
struct Chunk {
  std::string file = {};
  int64_t begin = 0, bytes = 0;  // counted from the start of the file
  Box box = {};                  // of the global tensor
};

// What a tensor is to the run.
enum class TensorRole { kParam, kMaster, kExpAvg, kExpAvgSq, kState };

// "exp_avg/model.norm.weight": the key of a tensor. A parameter goes by its bare name.
std::string tensor_key(TensorRole role, const std::string& name);

struct SavedTensor {
  TensorRole role = TensorRole::kParam;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape = {};
  uint64_t digest = 0;  // of the whole tensor, the same for every layout (checkpoint/digest.h)
  std::vector<Chunk> chunks = {};  // cover every element once
};

struct Manifest {
  std::map<std::string, SavedTensor> tensors = {};  // by key
};

}  // namespace switchyard
