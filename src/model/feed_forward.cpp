#include "model/feed_forward.h"

#include "backend/ops.h"

namespace switchyard {

FeedForward::FeedForward(Backend& backend, const TensorParallel& tp, const std::string& name,
                         int64_t model_width, int64_t hidden_width, bool recompute_activation)
    : backend_(backend),
      tp_(tp),
      recompute_activation_(recompute_activation),
      gate_proj_(backend, column_parallel(name + ".gate_proj.weight", hidden_width, model_width,
                                          tp.rank(), tp.size())),
      up_proj_(backend, column_parallel(name + ".up_proj.weight", hidden_width, model_width,
                                        tp.rank(), tp.size())),
      down_proj_(backend, row_parallel(name + ".down_proj.weight", model_width, hidden_width,
                                       tp.rank(), tp.size())) {}

Tensor FeedForward::forward(Pass& pass, Tensor x_TD, Saved& saved) const {
  const Tensor all_TD = tp_.gather(pass, pass.activations, x_TD);
  saved.gate_TF = gate_proj_.forward(pass, all_TD, saved.gate_proj);
  saved.up_TF = up_proj_.forward(pass, all_TD, saved.up_proj);

  Tensor y_TD = pass.activations.allocate_like(x_TD);
  Arena::Scope scope(pass.scratch);
  const Tensor activated_TF =
      activate(pass, recompute_activation_ ? pass.scratch : pass.activations, saved);
  const Tensor partial_TD = tp_.partial_sums(pass, pass.scratch, y_TD);
  down_proj_.forward_into(pass, partial_TD, activated_TF, saved.down_proj);
  if (recompute_activation_) saved.down_proj.x_TK = Tensor();
  tp_.reduce(pass, y_TD, partial_TD);
  return y_TD;
}

Tensor FeedForward::backward(Pass& pass, Tensor dy_TD, const Saved& saved_by_forward) {
  Tensor dx_TD = pass.scratch.allocate_like(dy_TD);
  Arena::Scope scope(pass.scratch);
  Saved saved = saved_by_forward;
  if (recompute_activation_ && !down_proj_.weight().is_frozen())
    saved.down_proj.x_TK = activate(pass, pass.saved_in_backward(), saved);
  const Tensor dpartial_TD = tp_.gather(pass, pass.scratch, dy_TD);
  Tensor dactivated_TF = pass.scratch.allocate_like(saved.gate_TF);
  down_proj_.backward_into(pass, dactivated_TF, dpartial_TD, saved.down_proj);
  Tensor dgate_TF = pass.scratch.allocate_like(saved.gate_TF);
  Tensor dup_TF = pass.scratch.allocate_like(saved.up_TF);
  backend_.ops().activation_backward(pass.queue, dgate_TF, dup_TF, Tensor(), dactivated_TF,
                                     saved.gate_TF, saved.up_TF, Tensor(), Activation::kSwiGLU);
  const Tensor dall_TD = tp_.partial_sums(pass, pass.scratch, dx_TD);
  up_proj_.backward_into(pass, dall_TD, dup_TF, saved.up_proj);
  gate_proj_.backward_add(pass, dall_TD, dgate_TF, saved.gate_proj);
  tp_.reduce(pass, dx_TD, dall_TD);
  return dx_TD;
}

Tensor FeedForward::activate(Pass& pass, Arena& arena, const Saved& saved) const {
  Tensor activated_TF = arena.allocate_like(saved.gate_TF);
  backend_.ops().activation_forward(pass.queue, activated_TF, saved.gate_TF, saved.up_TF, Tensor(),
                                    Activation::kSwiGLU);
  return activated_TF;
}

void FeedForward::append_parameters(ParameterList& list) {
  for (Linear* linear : {&gate_proj_, &up_proj_, &down_proj_}) list.push_back(&linear->weight());
}

}  // namespace switchyard
