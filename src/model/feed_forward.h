// FeedForward: the dense SwiGLU network (arXiv 2002.05202): (silu(x Wg^T) * (x Wu^T)) Wd^T.
// A dense block has one; an MoE block may have one as its shared expert. Tensor-parallel ranks have
// hidden_width / tp channels each.
#pragma once

#include <string>

#include "backend/backend.h"
#include "model/linear.h"
#include "model/parameter.h"
#include "model/pass.h"
#include "model/tensor_parallel.h"

namespace switchyard {

class FeedForward {
 public:
  struct Saved {
    Linear::Saved gate_proj, up_proj, down_proj;
    Tensor gate_TF, up_TF;
  };

  // `name`: "model.layers.3.mlp". `recompute_activation`: the backward computes silu(gate) * up
  // again.
  FeedForward(Backend& backend, const TensorParallel& tp, const std::string& name,
              int64_t model_width, int64_t hidden_width, bool recompute_activation);

  // Hidden state to hidden state (model/tensor_parallel.h).
  Tensor forward(Pass& pass, Tensor x_TD, Saved& saved) const;
  Tensor backward(Pass& pass, Tensor dy_TD, const Saved& saved);

  void append_parameters(ParameterList& list);

 private:
  Tensor activate(Pass& pass, Arena& arena, const Saved& saved) const;

  Backend& backend_;
  const TensorParallel& tp_;
  bool recompute_activation_;
  Linear gate_proj_, up_proj_, down_proj_;
};

}  // namespace switchyard
