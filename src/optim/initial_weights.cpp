#include "optim/initial_weights.h"

#include <array>

#include "backend/ops.h"
#include "core/random.h"

namespace switchyard {
namespace {

using Dims = std::array<int64_t, 3>;

// With dimensions of size `one` in front.
Dims to_three(const std::vector<int64_t>& dims, int64_t one) {
  SY_CHECK(dims.size() <= 3, "a parameter of {} dimensions", dims.size());
  Dims three = {one, one, one};
  std::copy(dims.begin(), dims.end(), three.end() - static_cast<ptrdiff_t>(dims.size()));
  return three;
}

// A box of the global tensor is, for each index of its first dimension, a box of a matrix.
void draw(Ops& ops, Queue queue, const Parameter& parameter, double range, uint64_t key) {
  const Dims shape = to_three(parameter.shape, 1), global = to_three(parameter.global_shape, 1);
  const Dims offset = to_three(parameter.offset, 0);
  const int64_t matrix = shape[1] * shape[2];
  for (int64_t i = 0; i < shape[0]; ++i) {
    const int64_t first = ((offset[0] + i) * global[1] + offset[1]) * global[2] + offset[2];
    ops.init_normal(queue,
                    parameter.weight.flat().rows(i * matrix, matrix).reshape({shape[1], shape[2]}),
                    range, key, first, global[2]);
  }
}

}  // namespace

void initialize(Backend& backend, const Parameter& parameter, double range, uint64_t seed) {
  const Queue queue = backend.compute_queue();
  if (parameter.init == Init::kNormal)
    draw(backend.ops(), queue, parameter, range, random_key(seed, parameter.name));
  else
    backend.ops().fill(queue, parameter.weight, parameter.init == Init::kOnes ? 1.0 : 0.0);
  backend.marks().worked(parameter.weight.bytes());
}

}  // namespace switchyard
