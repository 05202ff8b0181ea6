// Block: one transformer layer, pre-norm:
//   h = x + attention(norm1(x));  y = h + feed_forward(norm2(h))
// where the feed-forward is an MoE layer or dense. With `activation_checkpointing.policy` full, the
// forward keeps its input alone, and the backward runs it again first.
#pragma once

#include <optional>
#include <string>

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "model/attention.h"
#include "model/feed_forward.h"
#include "model/moe/moe_layer.h"
#include "model/norm.h"
#include "model/tensor_parallel.h"

namespace switchyard {

class Block {
 public:
  struct Saved {  // lives from forward() to backward() of one micro-batch
    Tensor x_TD;
    RmsNorm::Saved norm1, norm2;
    Attention::Saved attention;
    MoeLayer::Saved moe;  // of the two, the one this block has
    FeedForward::Saved dense;
  };

  // `moe_index`: which MoE layer of the model this is, or none for a dense block.
  Block(Backend& backend, const ProcessGrid& grid, const TensorParallel& tp, int layer,
        const RunConfig& config, std::optional<int> moe_index);

  // Hidden state to hidden state (model/tensor_parallel.h).
  Tensor forward(Pass& pass, Tensor x_TD, Saved& saved);
  Tensor backward(Pass& pass, Tensor dy_TD, const Saved& saved);

  int layer() const { return layer_; }
  void append_parameters(ParameterList& list);
  const Router* router() const { return moe_ ? &moe_->router() : nullptr; }  // of an MoE block
  Dispatcher::Traffic take_traffic();

 private:
  Tensor forward_layers(Pass& pass, Tensor x_TD, Saved& saved);
  Tensor backward_layers(Pass& pass, Tensor dy_TD, const Saved& saved);

  Backend& backend_;
  int layer_;
  bool recompute_;
  RmsNorm norm1_, norm2_;
  Attention attention_;
  std::optional<MoeLayer> moe_;
  std::optional<FeedForward> dense_;
};

}  // namespace switchyard
