#include "optim/flat_buffer.h"

#include <span>

#include "backend/ops.h"
#include "core/math.h"
#include "core/random.h"

namespace switchyard {
namespace {

constexpr int64_t kAlignment = 64;  // elements: every parameter starts on a vector boundary

Tensor shaped(Tensor flat, const std::vector<int64_t>& shape) {
  return Tensor(flat.raw(), flat.dtype(), std::span<const int64_t>(shape));
}

void initialize(Backend& backend, const Parameter& parameter, double range, uint64_t seed) {
  const Queue queue = backend.compute_queue();
  if (parameter.init == Init::kOnes)
    backend.ops().fill(queue, parameter.weight, 1.0);
  else
    backend.ops().init_normal(queue,
                              parameter.weight.reshape({parameter.shape[0], parameter.row_numel()}),
                              range, random_key(seed, parameter.name),
                              parameter.offset[0] * parameter.row_numel(), parameter.row_numel());
}

}  // namespace

FlatBuffer::FlatBuffer(Backend& backend, const ParameterList& parameters, ReplicaGroup group,
                       DType real, double initializer_range, uint64_t seed) {
  int64_t size = 0;
  for (const Parameter* parameter : parameters)
    if (parameter->group == group) size += round_up(parameter->numel(), kAlignment);

  memory_ = Buffer(backend, 4 * size * static_cast<int64_t>(size_in_bytes(real)));
  Tensor all = memory_.tensor(real, {4 * size});
  weights_ = all.rows(0, size);
  gradients_ = all.rows(size, size);
  backend.ops().fill(backend.compute_queue(), all, 0.0);

  int64_t begin = 0;
  for (Parameter* parameter : parameters) {
    if (parameter->group != group) continue;
    const int64_t count = parameter->numel();
    const Range range = {.weight = all.rows(begin, count),
                         .gradient = all.rows(size + begin, count),
                         .first_moment = all.rows(2 * size + begin, count),
                         .second_moment = all.rows(3 * size + begin, count),
                         .weight_decay = parameter->weight_decay};
    parameter->weight = shaped(range.weight, parameter->shape);
    parameter->trainable[0].gradient = shaped(range.gradient, parameter->shape);
    initialize(backend, *parameter, initializer_range, seed);
    ranges_.push_back(range);
    begin += round_up(count, kAlignment);
  }
}

}  // namespace switchyard
