#include "model/linear.h"

#include "backend/ops.h"

namespace switchyard {

Tensor Linear::forward(Pass& pass, Tensor x_TK, Saved& saved) const {
  saved.x_TK = x_TK;
  Tensor y_TN = pass.activations.allocate(x_TK.dtype(), {x_TK.dim(0), weight_.shape[0]});
  backend_.ops().matmul_nt(pass.queue, y_TN, x_TK, weight_.weight);
  return y_TN;
}

Tensor Linear::backward(Pass& pass, Tensor dy_TN, const Saved& saved) {
  Tensor dx_TK = pass.scratch.allocate_like(saved.x_TK);
  backend_.ops().matmul_nn(pass.queue, dx_TK, dy_TN, weight_.weight);
  backend_.ops().matmul_tn_add(pass.queue, weight_.gradient(), dy_TN, saved.x_TK);
  return dx_TK;
}

void Linear::backward_add(Pass& pass, Tensor dx_TK, Tensor dy_TN, const Saved& saved) {
  backend_.ops().matmul_nn_add(pass.queue, dx_TK, dy_TN, weight_.weight);
  backend_.ops().matmul_tn_add(pass.queue, weight_.gradient(), dy_TN, saved.x_TK);
}

}  // namespace switchyard
