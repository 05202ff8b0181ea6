// RmsNorm (arXiv 1910.07467), optionally of a residual sum: the block's two norms and the final
// one.
#pragma once

#include <string>

#include "backend/backend.h"
#include "model/parameter.h"
#include "model/pass.h"
#include "model/tensor_parallel.h"

namespace switchyard {

class RmsNorm {
 public:
  struct Saved {
    Tensor x_TD;  // what was normalised: the input, or the residual sum
    Tensor inv_rms_T;
  };

  RmsNorm(Backend& backend, const TensorParallel& tp, std::string name, int64_t model_width,
          double eps);

  // norm(x)
  Tensor forward(Pass& pass, Tensor x_TD, Saved& saved) const;
  // norm(x + delta); the sum itself, the new residual stream, is in saved.x_TD.
  Tensor forward_of_sum(Pass& pass, Tensor x_TD, Tensor delta_TD, Saved& saved) const;

  // Gradient of what was normalised: dresidual (what reaches it on other ways; may be none) plus
  // the way through the norm.
  Tensor backward(Pass& pass, Tensor dy_TD, Tensor dresidual_TD, const Saved& saved);

  Parameter& weight() { return weight_; }

 private:
  Tensor normalize(Pass& pass, Tensor sum_TD, Tensor x_TD, Tensor delta_TD, Saved& saved) const;

  Backend& backend_;
  double eps_;
  Parameter weight_;  // (D)
};

}  // namespace switchyard
