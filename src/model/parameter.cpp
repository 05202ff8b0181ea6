#include "model/parameter.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

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
  const auto d = static_cast<size_t>(dim);
  const int64_t size = global_shape[d], part = div_up(size, parts);
  if (dim > 0) div_exact(size, parts);
  Parameter parameter;
  parameter.name = std::move(name);
  parameter.shape = global_shape;
  parameter.offset.assign(global_shape.size(), 0);
  parameter.offset[d] = std::min(size, part * index);
  parameter.shape[d] = std::min(size, part * (index + 1)) - parameter.offset[d];
  parameter.padded_rows = dim == 0 ? part : global_shape[0];
  parameter.global_shape = std::move(global_shape);
  parameter.trainable = {{.begin = 0, .count = parameter.shape[0]}};
  return parameter;
}

}  // namespace switchyard
