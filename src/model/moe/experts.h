// Experts: the feed-forward networks of the experts that live on this rank, side by side, over the
// rows that the dispatcher brought, grouped by expert. Expert j lives on expert-parallel rank
// j / (E / ep); with expert tensor parallelism a rank has F / etp channels of each, and its outputs
// and input gradients are partial sums, which the dispatcher completes.
//   SwiGLU:      (silu(x Wg^T) * (x Wu^T) * gate) Wd^T
//   ReLU, GELU:  (act(x Wg^T) * gate) Wd^T
// The gate weight of a row multiplies the activation *before* the down projection, so that the
// results of a token's experts are plain sums.
#pragma once

#include <string>

#include "backend/backend.h"
#include "backend/ops.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "model/moe/dispatcher.h"
#include "model/parameter.h"
#include "model/pass.h"

namespace switchyard {

class Experts {
 public:
  struct Saved {
    Tensor x_RD, hidden_RF, up_RF;
    Tensor activated_RF;  // none when computed again
  };

  // `name`: "model.layers.3.mlp.experts"
  Experts(Backend& backend, const ProcessGrid& grid, const std::string& name,
          const RunConfig& config);

  Tensor forward(Pass& pass, Tensor x_RD, const Dispatcher::Plan& plan, Saved& saved) const;

  struct InputGradient {
    Tensor dx_RD, dgate_R;
  };
  InputGradient backward(Pass& pass, Tensor dy_RD, const Dispatcher::Plan& plan,
                         const Saved& saved);

  void append_parameters(ParameterList& list);

 private:
  bool gated() const { return activation_ == Activation::kSwiGLU; }
  Tensor activate(Pass& pass, Arena& arena, const Dispatcher::Plan& plan, const Saved& saved) const;

  Backend& backend_;
  Activation activation_;
  bool recompute_activation_;
  Parameter gate_proj_, up_proj_, down_proj_;  // (L, F, D), (L, F, D) if gated, (L, D, F)
};

}  // namespace switchyard
