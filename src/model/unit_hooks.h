// UnitHooks: what the model tells the optimizer while it runs; the only callback of the project.
//
// A unit is the parameters whose gradients become final together: the embedding, one block, or the
// final norm with the head. Numbered over the whole model: 0 the embedding, 1 + layer a block,
// 1 + num_hidden_layers the head.
#pragma once

#include <functional>

namespace switchyard {

struct UnitHooks {
  // The unit's weights are about to be read.
  std::function<void(int unit)> before_forward = [](int) {};
  // Its gradients are about to be added to, on behalf of one micro-batch.
  std::function<void(int unit)> before_gradients = [](int) {};
  // They have been; `last`: nothing more will be added in this step.
  std::function<void(int unit, bool last)> after_gradients = [](int, bool) {};
};

constexpr int embedding_unit() { return 0; }
constexpr int block_unit(int layer) { return 1 + layer; }
constexpr int head_unit(int num_layers) { return 1 + num_layers; }

}  // namespace switchyard
