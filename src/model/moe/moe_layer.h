// MoeLayer: choose experts, send the tokens there, compute, bring the results back and sum. A rank
// does so for the tokens it owns. Each step is a file of this folder. Tokens that were dropped
// everywhere give zero rows: only the residual stream carries them on. Shared experts, if any, see
// every token.
#pragma once

#include <optional>
#include <string>

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "model/feed_forward.h"
#include "model/moe/dispatcher.h"
#include "model/moe/experts.h"
#include "model/moe/router.h"

namespace switchyard {

class MoeLayer {
 public:
  struct Saved {
    Router::Saved router;
    Dispatcher::Plan plan;
    Experts::Saved experts;
    FeedForward::Saved shared;
  };

  // `name`: "model.layers.3.mlp"; `moe_index`: which MoE layer of the model this is, from 0.
  MoeLayer(Backend& backend, const ProcessGrid& grid, const TensorParallel& tp,
           const std::string& name, const RunConfig& config, int moe_index);

  // Hidden state to hidden state (model/tensor_parallel.h).

  Tensor forward(Pass& pass, Tensor x_TD, Saved& saved);
  Tensor backward(Pass& pass, Tensor dy_TD, const Saved& saved);

  void append_parameters(ParameterList& list);
  const Router& router() const { return router_; }
  Dispatcher::Traffic take_traffic() { return dispatcher_.take_traffic(); }

 private:
  Backend& backend_;
  const TensorParallel& tp_;
  Router router_;
  Dispatcher dispatcher_;
  Experts experts_;
  std::optional<FeedForward> shared_;
};

}  // namespace switchyard
