// Experts: the feed-forward networks of the experts on this rank, as grouped matrix products over
// rows sorted by expert: (act(x Wg^T) [* x Wu^T] * gate weight) Wd^T. SwiGLU has both Wg and Wu;
// ReLU and GELU experts (as in Switch) are two-layer networks without Wu. An expert with no rows
// is normal: it still contributes its (zero) gradient.
#pragma once

#include <string>

#include "backend/backend.h"
#include "backend/ops.h"
#include "config/run_config.h"
#include "model/moe/dispatcher.h"
#include "model/parameter.h"
#include "model/pass.h"

namespace switchyard {

class Experts {
 public:
  struct Saved {
    Tensor x_RD;
    Tensor hidden_RF, up_RF;  // x Wg^T and x Wu^T (none without Wu)
    Tensor activated_RF;      // input of the down projection, gate weight included
  };

  // `name`: "model.layers.3.mlp.experts"; this rank is `ep_rank` of `ep_size`.
  Experts(Backend& backend, const std::string& name, const RunConfig& config, int ep_rank,
          int ep_size);

  Tensor forward(Pass& pass, Tensor x_RD, const Dispatcher::Plan& plan, Saved& saved) const;

  struct InputGradient {
    Tensor dx_RD;
    Tensor dgate_R;  // gradient of the gate weights
  };
  InputGradient backward(Pass& pass, Tensor dy_RD, const Dispatcher::Plan& plan,
                         const Saved& saved);

  void append_parameters(ParameterList& list);

 private:
  bool gated() const { return activation_ == Activation::kSwiGLU; }

  Backend& backend_;
  Activation activation_;
  Parameter gate_proj_;  // (L, F, D)
  Parameter up_proj_;    // (L, F, D), only if gated()
  Parameter down_proj_;  // (L, D, F)
};

}  // namespace switchyard
