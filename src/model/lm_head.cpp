#include "model/lm_head.h"

#include "backend/ops.h"

namespace switchyard {

LmHead::LmHead(Backend& backend, int64_t vocab_size, int64_t model_width, Parameter* tied)
    : backend_(backend), tied_(tied) {
  if (tied == nullptr) own_ = dense_parameter("lm_head.weight", {vocab_size, model_width});
}

Tensor LmHead::logits(Pass& pass, Tensor x_TD) const {
  Tensor logits_TV = pass.activations.allocate(x_TD.dtype(), {x_TD.dim(0), weight().shape[0]});
  backend_.ops().matmul_nt(pass.queue, logits_TV, x_TD, weight().weight);
  return logits_TV;
}

void LmHead::forward(Pass& pass, Tensor x_TD, Saved& saved) const {
  saved.x_TD = x_TD;
  saved.dlogits_TV = logits(pass, x_TD);
  const int64_t T = x_TD.dim(0);
  Ops& ops = backend_.ops();
  Arena::Scope scope(pass.scratch);
  Tensor statistics = pass.scratch.allocate(DType::kF64, {1, T, 3});
  ops.softmax_statistics(pass.queue, statistics.reshape({T, 3}), saved.dlogits_TV,
                         pass.batch.targets, 0, weight().global_shape[0]);
  ops.cross_entropy_loss(pass.queue, pass.statistics.loss_sum, statistics, pass.batch.targets, 0,
                         T);
  if (pass.training)
    ops.cross_entropy_gradient(pass.queue, saved.dlogits_TV, statistics, pass.batch.targets, 0,
                               pass.scalars);
}

Tensor LmHead::backward(Pass& pass, const Saved& saved) {
  Tensor dx_TD = pass.scratch.allocate_like(saved.x_TD);
  backend_.ops().matmul_nn(pass.queue, dx_TD, saved.dlogits_TV, weight().weight);
  backend_.ops().matmul_tn_add(pass.queue, weight().gradient(), saved.dlogits_TV, saved.x_TD);
  return dx_TD;
}

void LmHead::append_parameters(ParameterList& list) {
  if (own_) list.push_back(&*own_);
}

}  // namespace switchyard
