#include "train/global_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <numeric>

namespace switchyard {
namespace {

// What travels: for each parameter its name, dims and values, each list behind its length.
class Writer {
 public:
  template <typename T>
  void add(const T* values, size_t count) {
    const auto length = static_cast<int64_t>(count);
    bytes_.append(reinterpret_cast<const char*>(&length), sizeof(length));
    bytes_.append(reinterpret_cast<const char*>(values), count * sizeof(T));
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(const std::string& bytes) : bytes_(bytes) {}

  bool at_end() const { return next_ == bytes_.size(); }

  template <typename T>
  std::vector<T> take() {
    int64_t length = 0;
    copy(&length, sizeof(length));
    std::vector<T> values(static_cast<size_t>(length));
    copy(values.data(), values.size() * sizeof(T));
    return values;
  }

 private:
  void copy(void* to, size_t count) {
    SY_CHECK(next_ + count <= bytes_.size(), "a rank's parameters are cut off");
    std::memcpy(to, bytes_.data() + next_, count);
    next_ += count;
  }

  const std::string& bytes_;
  size_t next_ = 0;
};

struct Box {
  std::string name;
  std::vector<int64_t> global_shape, offset, shape;
  std::vector<double> values;
};

// Global index of element `local` of the box, both row-major.
size_t global_index(const Box& box, size_t local) {
  auto rest = static_cast<int64_t>(local);
  int64_t index = 0, stride = 1;
  for (size_t d = box.shape.size(); d-- > 0;) {
    index += (box.offset[d] + rest % box.shape[d]) * stride;
    rest /= box.shape[d];
    stride *= box.global_shape[d];
  }
  return static_cast<size_t>(index);
}

// NaN: no rank has given this element yet.
void place(const Box& box, GlobalTensors& tensors) {
  std::vector<double>& whole = tensors.values[box.name];
  const int64_t size = std::accumulate(box.global_shape.begin(), box.global_shape.end(), int64_t{1},
                                       std::multiplies<>());
  if (whole.empty()) whole.assign(static_cast<size_t>(size), std::nan(""));
  for (size_t i = 0; i < box.values.size(); ++i) {
    double& element = whole[global_index(box, i)];
    if (!std::isnan(element) && element != box.values[i]) {
      const double difference = std::abs(element - box.values[i]);
      if (!(difference <= tensors.copy_difference)) {
        tensors.copy_difference = difference;
        tensors.copy_difference_in = box.name;
      }
    }
    element = box.values[i];
  }
}

}  // namespace

GlobalTensors gather_global_tensors(
    const ParameterList& parameters, Communicator& world,
    const std::function<std::vector<double>(const Parameter&)>& read) {
  Writer mine;
  for (const Parameter* parameter : parameters) {
    const std::vector<double> values = read(*parameter);
    mine.add(parameter->name.data(), parameter->name.size());
    mine.add(parameter->global_shape.data(), parameter->global_shape.size());
    mine.add(parameter->offset.data(), parameter->offset.size());
    mine.add(parameter->shape.data(), parameter->shape.size());
    mine.add(values.data(), values.size());
  }
  GlobalTensors tensors;
  for (const std::string& bytes : world.gather_host(mine.bytes(), 0)) {
    Reader reader(bytes);
    while (!reader.at_end()) {
      const std::vector<char> name = reader.take<char>();
      Box box;
      box.name.assign(name.begin(), name.end());
      box.global_shape = reader.take<int64_t>();
      box.offset = reader.take<int64_t>();
      box.shape = reader.take<int64_t>();
      box.values = reader.take<double>();
      place(box, tensors);
    }
  }
  return tensors;
}

GlobalTensors gather_global_state(const StateList& state, Backend& backend, Communicator& world) {
  std::deque<Parameter> declared;
  ParameterList all;
  for (const StateTensor& tensor : state) {
    declared.push_back(dense_parameter(tensor.name, {tensor.tensor.numel()}));
    declared.back().weight = tensor.tensor;
    all.push_back(&declared.back());
  }
  return gather_global_tensors(all, world, [&](const Parameter& parameter) {
    SY_CHECK(parameter.weight.dtype() == DType::kF64, "{} is not f64", parameter.name);
    std::vector<double> values(static_cast<size_t>(parameter.numel()));
    backend.download(backend.compute_queue(), values.data(), parameter.weight);
    backend.host_wait(backend.record(backend.compute_queue()));
    return values;
  });
}

}  // namespace switchyard
