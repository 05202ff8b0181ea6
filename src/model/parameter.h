// Parameter: one named tensor of the model, or this rank's box of it. Layers declare parameters in
// their constructors; the optimizer then lays all of them into flat buffers (optim/flat_buffer.h)
// and points `weight` and the gradients there. Layers own the declaration, the flat buffers own the
// memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace switchyard {

class Communicator;
class ProcessGrid;

// Which ranks hold the same elements and share out their optimizer state.
enum class ReplicaGroup {
  kDense,   // all data-parallel ranks (grid.dp())
  kExpert,  // the ranks that hold the same experts (grid.edp())
};

// Which ranks beside those of the replica group hold the same elements too.
enum class Copies {
  kNone,      // nobody: the parameter is sliced over tp, or tp is 1
  kTensor,    // all tp ranks (grid.tp()): norms, router, ungrouped small things
  kKeyValue,  // tp ranks that share a key/value head (grid.kv())
  kTied,      // the first and the last pipeline stage: tied embeddings (grid.tied())
};

enum class Init { kNormal, kOnes, kZeros };

// Rows [begin, begin + count) of dim 0 that training changes, and their gradient.
struct TrainableRows {
  int64_t begin = 0, count = 0;
  Tensor gradient = {};  // (count, ...), accumulator_of(real); backward passes add to it
};

struct Parameter {
  std::string name;                   // global name, Hugging Face style
  int unit = 0;                       // whose gradients become final together (model/unit_hooks.h)
  std::vector<int64_t> shape;         // on this rank
  std::vector<int64_t> global_shape;  // of the whole
  std::vector<int64_t> offset;        // global index of the first element held here, per dim
  // Rows of dim 0 for which buffers keep room: shape[0] or, where ranks hold slices of uneven
  // height, the height of the largest. The rows beyond shape[0] are padding: always zero, and no
  // view of the parameter shows them.
  int64_t padded_rows = 0;
  ReplicaGroup group = ReplicaGroup::kDense;
  Copies copies = Copies::kNone;
  // Each of `copies` computes a part of the gradient, which is their sum; otherwise all compute the
  // whole.
  bool is_partial = false;
  Init init = Init::kNormal;
  bool weight_decay = true;
  std::vector<TrainableRows> trainable;  // all rows at first; none when the parameter is frozen

  Tensor weight;  // shape

  int64_t numel() const;
  int64_t row_numel() const;  // of one index of dim 0
  int64_t padded_numel() const { return padded_rows * row_numel(); }
  int64_t global_numel() const;
  bool is_frozen() const { return trainable.empty(); }
  // Of a parameter that is trained as a whole; none when it is frozen.
  Tensor gradient() const;
};

// A matrix or vector that every rank of the stage holds whole.
Parameter dense_parameter(std::string name, std::vector<int64_t> shape);

// Slice `index` of `parts` slices along dim `dim`, of equal size or, along dim 0, with what is
// missing at the end: rank r holds [ceil(n / parts) * r, ceil(n / parts) * (r + 1)) as far as it
// exists.
Parameter sliced_parameter(std::string name, std::vector<int64_t> global_shape, int dim, int index,
                           int parts);

// Cuts a parameter that is whole along `dim` into `parts` equal slices there and keeps one.
void slice(Parameter& parameter, int dim, int index, int parts);

using ParameterList = std::vector<Parameter*>;

// State of the model that no gradient changes: no parameter, but part of a checkpoint. Every rank
// that has it holds the whole.
struct StateTensor {
  std::string name;
  Tensor tensor;
};
using StateList = std::vector<StateTensor>;

// The name under which users know expert `expert` of a parameter that holds all of them: in files
// of weights and in patterns of what is trained. "a.experts.up_proj.weight" and 3 make
// "a.experts.3.up_proj.weight". Other parameters go by their own name.
std::string name_of_expert(const Parameter& parameter, int64_t expert);

// The ranks that hold `copies` of the same elements, besides those of the replica group; null:
// there are none.
Communicator* copies_of(Copies copies, const ProcessGrid& grid);

}  // namespace switchyard
