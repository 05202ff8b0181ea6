#include "model/linear.h"

#include "backend/ops.h"
#include "model/weight_gradients.h"

namespace switchyard {

Parameter column_parallel(std::string name, int64_t outputs, int64_t inputs, int rank, int size) {
  return sliced_parameter(std::move(name), {outputs, inputs}, 0, rank, size);
}

Parameter row_parallel(std::string name, int64_t outputs, int64_t inputs, int rank, int size) {
  return sliced_parameter(std::move(name), {outputs, inputs}, 1, rank, size);
}

Tensor Linear::forward(Pass& pass, Tensor x_TK, Saved& saved) const {
  Tensor y_TN = pass.activations.allocate(x_TK.dtype(), {x_TK.dim(0), weight_.shape[0]});
  forward_into(pass, y_TN, x_TK, saved);
  return y_TN;
}

void Linear::forward_into(Pass& pass, Tensor y_TN, Tensor x_TK, Saved& saved) const {
  saved.x_TK = x_TK;
  backend_.ops().matmul_nt(pass.queue, y_TN, x_TK, weight_.weight);
}

Tensor Linear::backward(Pass& pass, Tensor dy_TN, const Saved& saved) {
  Tensor dx_TK = pass.scratch.allocate_like(saved.x_TK);
  backward_into(pass, dx_TK, dy_TN, saved);
  return dx_TK;
}

void Linear::backward_into(Pass& pass, Tensor dx_TK, Tensor dy_TN, const Saved& saved) {
  backend_.ops().matmul_nn(pass.queue, dx_TK, dy_TN, weight_.weight);
  add_matmul_gradient(backend_, pass, weight_, dy_TN, saved.x_TK);
}

void Linear::backward_add(Pass& pass, Tensor dx_TK, Tensor dy_TN, const Saved& saved) {
  backend_.ops().matmul_nn_add(pass.queue, dx_TK, dy_TN, weight_.weight);
  add_matmul_gradient(backend_, pass, weight_, dy_TN, saved.x_TK);
}

}  // namespace switchyard
