// Attention: causal self-attention with grouped-query heads and rotary positions.
//   q, k, v = x Wq^T, x Wk^T, x Wv^T;  rope(q, k);  softmax(q k^T / sqrt(C)) v;  times Wo^T
// Tensor-parallel ranks have H / tp query heads each, and K / tp key/value heads or, when tp
// exceeds K, a copy of the one that their query heads use.
#pragma once

#include <string>

#include "backend/backend.h"
#include "config/run_config.h"
#include "model/linear.h"
#include "model/parameter.h"
#include "model/pass.h"
#include "model/tensor_parallel.h"

namespace switchyard {

class Attention {
 public:
  struct Saved {
    Linear::Saved query_proj, key_proj, value_proj, output_proj;
    Tensor query_THC, key_TKC, value_TKC;  // after RoPE
    Tensor out_THC;                        // this and the next: none when computed again
    Tensor log_sum_exp_TH;
  };

  // `name`: "model.layers.3.self_attn". `recompute_core`: the backward computes out_THC again.
  Attention(Backend& backend, const TensorParallel& tp, const std::string& name,
            const ModelConfig& config, bool recompute_core);

  // Hidden state to hidden state (model/tensor_parallel.h).
  Tensor forward(Pass& pass, Tensor x_TD, Saved& saved) const;
  Tensor backward(Pass& pass, Tensor dy_TD, const Saved& saved);

  void append_parameters(ParameterList& list);

 private:
  // Fills saved.out_THC and saved.log_sum_exp_TH in `arena`.
  void attend(Pass& pass, Arena& arena, Saved& saved) const;

  Backend& backend_;
  const TensorParallel& tp_;
  int64_t num_heads_;  // on this rank
  int64_t head_dim_;
  double rope_theta_;
  bool recompute_core_;
  Linear query_proj_, key_proj_, value_proj_, output_proj_;
};

}  // namespace switchyard
