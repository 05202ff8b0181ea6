#include "model/norm.h"

#include <utility>

#include "backend/ops.h"
#include "model/weight_gradients.h"

namespace switchyard {

RmsNorm::RmsNorm(Backend& backend, const TensorParallel& tp, std::string name, int64_t model_width,
                 double eps)
    : backend_(backend), eps_(eps), weight_(dense_parameter(std::move(name), {model_width})) {
  weight_.init = Init::kOnes;
  weight_.weight_decay = false;
  tp.replicate(weight_, TensorParallel::Sees::kHiddenRows);
}

Tensor RmsNorm::forward(Pass& pass, Tensor x_TD, Saved& saved) const {
  return normalize(pass, Tensor(), x_TD, Tensor(), saved);
}

Tensor RmsNorm::forward_of_sum(Pass& pass, Tensor x_TD, Tensor delta_TD, Saved& saved) const {
  return normalize(pass, pass.activations.allocate_like(x_TD), x_TD, delta_TD, saved);
}

Tensor RmsNorm::normalize(Pass& pass, Tensor sum_TD, Tensor x_TD, Tensor delta_TD,
                          Saved& saved) const {
  saved.x_TD = sum_TD.is_none() ? x_TD : sum_TD;
  saved.inv_rms_T = pass.activations.allocate(accumulator_of(x_TD.dtype()), {x_TD.dim(0)});
  Tensor y_TD = pass.activations.allocate_like(x_TD);
  backend_.ops().rmsnorm_forward(pass.queue, y_TD, sum_TD, saved.inv_rms_T, x_TD, delta_TD,
                                 weight_.weight, eps_);
  return y_TD;
}

Tensor RmsNorm::backward(Pass& pass, Tensor dy_TD, Tensor dresidual_TD, const Saved& saved) {
  Tensor dx_TD = pass.scratch.allocate_like(dy_TD);
  backend_.ops().rmsnorm_backward(pass.queue, dx_TD, dy_TD, dresidual_TD, saved.x_TD,
                                  saved.inv_rms_T, weight_.weight);
  add_norm_gradient(backend_, pass, weight_, dy_TD, saved.x_TD, saved.inv_rms_T);
  return dx_TD;
}

}  // namespace switchyard
