// Attention: causal self-attention with grouped-query heads and rotary positions.
//   q, k, v = x Wq^T, x Wk^T, x Wv^T;  rope(q, k);  softmax(q k^T / sqrt(C)) v;  times Wo^T
#pragma once

#include <string>

#include "backend/backend.h"
#include "config/run_config.h"
#include "model/linear.h"
#include "model/parameter.h"
#include "model/pass.h"

namespace switchyard {

class Attention {
 public:
  struct Saved {
    Linear::Saved query_proj, key_proj, value_proj, output_proj;
    Tensor query_THC, key_TKC, value_TKC;  // after RoPE
    Tensor out_THC;
    Tensor log_sum_exp_TH;
  };

  // `name`: "model.layers.3.self_attn"
  Attention(Backend& backend, const std::string& name, const ModelConfig& config);

  Tensor forward(Pass& pass, Tensor x_TD, Saved& saved) const;
  Tensor backward(Pass& pass, Tensor dy_TD, const Saved& saved);

  void append_parameters(ParameterList& list);

 private:
  Backend& backend_;
  int64_t num_heads_, head_dim_;
  double rope_theta_;
  Linear query_proj_, key_proj_, value_proj_, output_proj_;
};

}  // namespace switchyard
