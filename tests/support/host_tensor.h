// HostTensor: a tensor that owns its values, for tests on the CPU backend.
#pragma once

#include <initializer_list>
#include <string_view>
#include <vector>

#include "core/random.h"
#include "core/tensor.h"

namespace switchyard::test {

template <typename T>
class HostTensor {
 public:
  HostTensor(std::initializer_list<int64_t> shape, T value = T{}) : shape_(shape) {
    int64_t count = 1;
    for (const int64_t dim : shape_) count *= dim;
    values.assign(static_cast<size_t>(count), value);
  }

  Tensor view() {
    return Tensor(values.data(), DTypeOf<T>::value, std::span<const int64_t>(shape_));
  }
  operator Tensor() { return view(); }  // NOLINT: tests pass it wherever an Op wants a view

  std::vector<T> values;

 private:
  std::vector<int64_t> shape_;
};

// Normal numbers, the same for the same name.
template <typename T>
HostTensor<T> random_tensor(std::string_view name, std::initializer_list<int64_t> shape,
                            double std = 1.0) {
  HostTensor<T> tensor(shape);
  const uint64_t key = random_key(7, name);
  for (size_t i = 0; i < tensor.values.size(); ++i)
    tensor.values[i] = static_cast<T>(std * random_normal(key, i));
  return tensor;
}

}  // namespace switchyard::test
