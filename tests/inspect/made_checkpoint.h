// Checkpoints of given tensors, cut over files as a test likes.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/box.h"
#include "core/dtype.h"

namespace switchyard::test {

struct MadeTensor {
  std::string key;
  std::vector<int64_t> shape;
  std::vector<float> values;  // row-major
  std::vector<Box> boxes;     // box i lies in file i; they cover the tensor
  DType dtype = DType::kF32;  // or kBF16: the values, rounded
};

struct MadeCheckpoint {
  std::vector<MadeTensor> tensors;
  nlohmann::ordered_json config = nlohmann::ordered_json::object();
  nlohmann::ordered_json layout = nlohmann::ordered_json::object();
  nlohmann::ordered_json train = nlohmann::ordered_json::object();
};

// Makes the directory, with all files and the manifest; of step 7 of run "run".
void write_checkpoint(const std::string& directory, const MadeCheckpoint& made);

// A tensor cut into so many slices of equal size along a dimension.
std::vector<Box> sliced(const std::vector<int64_t>& shape, size_t dim, int64_t parts);

}  // namespace switchyard::test
