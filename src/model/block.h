// Block: one transformer layer, pre-norm:
//   h = x + attention(norm1(x));  y = h + feed_forward(norm2(h))
// where the feed-forward is an MoE layer or dense.
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

namespace switchyard {

class Block {
 public:
  struct Saved {  // lives from forward() to backward() of one micro-batch
    RmsNorm::Saved norm1, norm2;
    Attention::Saved attention;
    MoeLayer::Saved moe;  // of the two, the one this block has
    FeedForward::Saved dense;
  };

  // `moe_index`: which MoE layer of the stage this is, or none for a dense block.
  Block(Backend& backend, const ProcessGrid& grid, int layer, const RunConfig& config,
        std::optional<int> moe_index);

  Tensor forward(Pass& pass, Tensor x_TD, Saved& saved);
  Tensor backward(Pass& pass, Tensor dy_TD, const Saved& saved);

  void append_parameters(ParameterList& list);
  Dispatcher::Traffic take_traffic();

 private:
  Backend& backend_;
  RmsNorm norm1_, norm2_;
  Attention attention_;
  std::optional<MoeLayer> moe_;
  std::optional<FeedForward> dense_;
};

}  // namespace switchyard
