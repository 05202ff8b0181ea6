#include "checkpoint/held_state.h"

#include <algorithm>
#include <utility>

namespace switchyard {
namespace {

std::vector<int64_t> without_first(const std::vector<int64_t>& dims) {
  return {dims.begin() + 1, dims.end()};
}

// A tensor as users know it, all or an expert of a parameter: `box` is what this rank has of it.
struct LogicalTensor {
  std::string name;
  std::vector<int64_t> shape;
  Box box;
  int64_t begin = 0;  // its first element, counted in the parameter on this rank
};

std::vector<LogicalTensor> logical_tensors(const Parameter& parameter) {
  if (parameter.numel() == 0) return {};
  if (parameter.group == ReplicaGroup::kDense)
    return {{.name = parameter.name,
             .shape = parameter.global_shape,
             .box = {parameter.offset, parameter.shape}}};
  std::vector<LogicalTensor> experts;
  for (int64_t i = 0; i < parameter.shape[0]; ++i)
    experts.push_back({.name = name_of_expert(parameter, parameter.offset[0] + i),
                       .shape = without_first(parameter.global_shape),
                       .box = {without_first(parameter.offset), without_first(parameter.shape)},
                       .begin = i * parameter.row_numel()});
  return experts;
}

HeldTensor held_tensor(const LogicalTensor& tensor, TensorRole role, Box box, Tensor data) {
  return {.key = tensor_key(role, tensor.name),
          .role = role,
          .shape = tensor.shape,
          .box = std::move(box),
          .data = data.flat()};
}

// The part of `kept` that belongs to `tensor`; rows of padding belong to none.
void add_slice(std::vector<HeldTensor>& held, const LogicalTensor& tensor,
               const FlatBuffer::Update& kept) {
  const int64_t numel = kept.weight.numel(), of_tensor = tensor.box.numel();
  const int64_t begin = std::max(kept.begin, tensor.begin);
  const int64_t end = std::min(kept.begin + numel, tensor.begin + of_tensor);
  if (begin >= end) return;
  int64_t at = begin - kept.begin;
  for (const Box& box :
       contiguous_boxes(tensor.box.shape, begin - tensor.begin, end - tensor.begin)) {
    const auto add = [&](TensorRole role, Tensor state) {
      held.push_back(
          held_tensor(tensor, role, placed_in(tensor.box, box), state.rows(at, box.numel())));
    };
    if (!kept.rounded_weight.is_none()) add(TensorRole::kMaster, kept.weight);
    add(TensorRole::kExpAvg, kept.first_moment);
    add(TensorRole::kExpAvgSq, kept.second_moment);
    at += box.numel();
  }
}

HeldTensor held_tensor(const StateTensor& state) {
  const std::vector<int64_t> shape(state.tensor.shape().begin(), state.tensor.shape().end());
  return {.key = tensor_key(TensorRole::kState, state.name),
          .role = TensorRole::kState,
          .shape = shape,
          .box = whole_box(shape),
          .data = state.tensor.flat()};
}

}  // namespace

std::vector<HeldTensor> held_weights(const ParameterList& parameters, const StateList& state) {
  std::vector<HeldTensor> held;
  for (const Parameter* parameter : parameters)
    for (const LogicalTensor& tensor : logical_tensors(*parameter))
      held.push_back(held_tensor(tensor, TensorRole::kParam, tensor.box,
                                 parameter->weight.flat().rows(tensor.begin, tensor.box.numel())));
  for (const StateTensor& tensor : state)
    if (!tensor.tensor.empty()) held.push_back(held_tensor(tensor));
  return held;
}

std::vector<HeldTensor> held_state(const ParameterList& parameters, const StateList& state,
                                   ZeroOptimizer& optimizer) {
  optimizer.wait_for_params();
  std::vector<HeldTensor> held = held_weights(parameters, state);
  for (const FlatBuffer& group : optimizer.groups())
    for (const FlatBuffer::Update& update : group.updates())
      for (const LogicalTensor& tensor : logical_tensors(*update.parameter))
        add_slice(held, tensor, update);
  return held;
}

}  // namespace switchyard
