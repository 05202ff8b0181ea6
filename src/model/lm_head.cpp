#include "model/lm_head.h"

#include "backend/ops.h"
#include "model/weight_gradients.h"

namespace switchyard {

Tensor LmHead::logits(Pass& pass, Tensor x_TD) const {
  return logits_of_all(pass, tp_.gather(pass, pass.activations, x_TD));
}

Tensor LmHead::logits_of_all(Pass& pass, Tensor all_TD) const {
  const DType dtype = accumulator_of(all_TD.dtype());
  Tensor logits_TV = pass.activations.allocate(dtype, {all_TD.dim(0), weight().shape[0]});
  backend_.ops().matmul_nt(pass.queue, logits_TV, all_TD, weight().weight);
  return logits_TV;
}

void LmHead::forward(Pass& pass, Tensor x_TD, Saved& saved) const {
  Ops& ops = backend_.ops();
  const int64_t T = pass.batch.num_tokens(), first_id = weight().offset[0];
  const Tensor targets = pass.batch.targets;
  saved.x_TD = tp_.gather(pass, pass.activations, x_TD);
  saved.dlogits_TV = logits_of_all(pass, saved.x_TD);

  Arena::Scope scope(pass.scratch);
  Tensor statistics_PT3 = pass.scratch.allocate(DType::kF64, {tp_.size(), T, 3});
  const Tensor mine_T3 = statistics_PT3.rows(tp_.rank(), 1).reshape({T, 3});
  ops.softmax_statistics(pass.queue, mine_T3, saved.dlogits_TV, targets, first_id,
                         weight().global_shape[0]);
  backend_.wait(pass.queue, tp_.communicator().all_gather(statistics_PT3, mine_T3,
                                                          backend_.record(pass.queue)));
  const RowSlice mine = tp_.my_rows(T);
  ops.cross_entropy_loss(pass.queue, pass.statistics.loss_sum, statistics_PT3, targets, mine.begin,
                         mine.count);
  if (pass.training)
    ops.cross_entropy_gradient(pass.queue, saved.dlogits_TV, statistics_PT3, targets, first_id,
                               pass.scalars);
}

Tensor LmHead::backward(Pass& pass, const Saved& saved) {
  const int64_t rows = tp_.hidden_rows(pass.batch.num_tokens());
  Tensor dx_TD = pass.scratch.allocate(saved.x_TD.dtype(), {rows, saved.x_TD.dim(1)});
  Arena::Scope scope(pass.scratch);
  const Tensor dall_TD = tp_.partial_sums(pass, pass.scratch, dx_TD);
  backend_.ops().matmul_nn(pass.queue, dall_TD, saved.dlogits_TV, weight().weight);
  add_matmul_gradient(backend_, pass, weight(), saved.dlogits_TV, saved.x_TD,
                      /*dy_is_kept=*/true);
  tp_.reduce(pass, dx_TD, dall_TD);
  return dx_TD;
}

void LmHead::append_parameters(ParameterList& list) {
  if (own_) list.push_back(&*own_);
}

}  // namespace switchyard
