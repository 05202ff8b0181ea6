#include "model/parameter.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "comm/process_grid.h"
#include "core/math.h"

namespace switchyard {
namespace {

int64_t product(const std::vector<int64_t>& dims, size_t first) {
  return std::accumulate(dims.begin() + static_cast<ptrdiff_t>(first), dims.end(), int64_t{1},
                         std::multiplies<>());
}

}  // namespace

int64_t Parameter::numel() const { return product(shape, 0); }
int64_t Parameter::row_numel() const { return product(shape, 1); }
int64_t Parameter::global_numel() const { return product(global_shape, 0); }

Tensor Parameter::gradient() const {
  if (is_frozen()) return Tensor();
  SY_CHECK(trainable.size() == 1 && trainable[0].count == shape[0],
           "{} is trained in parts: it has no gradient as a whole", name);
  return trainable[0].gradient;
}

Parameter dense_parameter(std::string name, std::vector<int64_t> shape) {
  return sliced_parameter(std::move(name), std::move(shape), 0, 0, 1);
}

Parameter sliced_parameter(std::string name, std::vector<int64_t> global_shape, int dim, int index,
                           int parts) {
  Parameter parameter;
  parameter.name = std::move(name);
  parameter.shape = global_shape;
  parameter.offset.assign(global_shape.size(), 0);
  parameter.padded_rows = global_shape[0];
  parameter.global_shape = std::move(global_shape);
  parameter.trainable = {{.begin = 0, .count = parameter.shape[0]}};
  if (dim > 0) {
    slice(parameter, dim, index, parts);
    return parameter;
  }
  const int64_t rows = parameter.global_shape[0], part = div_up(rows, parts);
  parameter.padded_rows = part;
  parameter.offset[0] = std::min(rows, part * index);
  parameter.shape[0] = std::min(rows, part * (index + 1)) - parameter.offset[0];
  parameter.trainable[0].count = parameter.shape[0];
  return parameter;
}

void slice(Parameter& parameter, int dim, int index, int parts) {
  const auto d = static_cast<size_t>(dim);
  SY_CHECK(dim > 0 && parameter.shape[d] == parameter.global_shape[d], "{}: dim {} cannot be cut",
           parameter.name, dim);
  parameter.shape[d] = div_exact(parameter.global_shape[d], parts);
  parameter.offset[d] = parameter.shape[d] * index;
}

std::string name_of_expert(const Parameter& parameter, int64_t expert) {
  const std::string_view marker = ".experts.";
  const size_t at = parameter.name.find(marker);
  SY_CHECK(at != std::string::npos, "expert parameter \"{}\" has no \"{}\" in its name",
           parameter.name, marker);
  std::string name = parameter.name;
  return name.insert(at + marker.size(), std::to_string(expert) + ".");
}

Communicator* copies_of(Copies copies, const ProcessGrid& grid) {
  switch (copies) {
    case Copies::kNone:
      return nullptr;
    case Copies::kTensor:
      return &grid.tp();
    case Copies::kKeyValue:
      return &grid.kv();
    case Copies::kTied:
      return &grid.tied();
  }
  return nullptr;
}

}  // namespace switchyard
