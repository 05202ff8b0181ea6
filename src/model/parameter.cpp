#include "model/parameter.h"

#include <functional>
#include <numeric>
#include <utility>

namespace switchyard {

int64_t Parameter::numel() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

int64_t Parameter::first_index() const {
  return first_row *
         std::accumulate(shape.begin() + 1, shape.end(), int64_t{1}, std::multiplies<>());
}

Parameter dense_parameter(std::string name, std::vector<int64_t> shape) {
  Parameter parameter;
  parameter.name = std::move(name);
  parameter.shape = shape;
  parameter.global_shape = std::move(shape);
  return parameter;
}

}  // namespace switchyard
