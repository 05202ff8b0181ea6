// Parameter: one named tensor that training changes, or this rank's slice of it. Layers declare
// parameters in their constructors; the optimizer then lays all of them into flat buffers
// (optim/flat_buffer.h) and points `weight` and `gradient` there. Layers own the declaration, the
// flat buffers own the memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace switchyard {

// Which ranks hold a copy of a parameter, and hence sum its gradient.
enum class ReplicaGroup {
  kDense,   // all data-parallel ranks (grid.dp())
  kExpert,  // the ranks that hold the same experts (grid.edp())
};

enum class Init { kNormal, kOnes };

struct Parameter {
  std::string name;                   // global name, Hugging Face style
  std::vector<int64_t> shape;         // on this rank
  std::vector<int64_t> global_shape;  // differs from `shape` in dim 0 only
  int64_t first_row = 0;              // first index of dim 0 held here
  ReplicaGroup group = ReplicaGroup::kDense;
  Init init = Init::kNormal;
  bool weight_decay = true;

  Tensor weight;    // shape
  Tensor gradient;  // shape; backward passes add to it

  int64_t numel() const;
  int64_t first_index() const;  // global index of the first element held here
};

// A dense matrix or vector, held whole by every rank of the stage.
Parameter dense_parameter(std::string name, std::vector<int64_t> shape);

using ParameterList = std::vector<Parameter*>;

}  // namespace switchyard
