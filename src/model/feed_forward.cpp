#include "model/feed_forward.h"

#include "backend/ops.h"

namespace switchyard {

FeedForward::FeedForward(Backend& backend, const std::string& name, int64_t model_width,
                         int64_t hidden_width)
    : backend_(backend),
      gate_proj_(backend, name + ".gate_proj.weight", hidden_width, model_width),
      up_proj_(backend, name + ".up_proj.weight", hidden_width, model_width),
      down_proj_(backend, name + ".down_proj.weight", model_width, hidden_width) {}

Tensor FeedForward::forward(Pass& pass, Tensor x_TD, Saved& saved) const {
  saved.gate_TF = gate_proj_.forward(pass, x_TD, saved.gate_proj);
  saved.up_TF = up_proj_.forward(pass, x_TD, saved.up_proj);
  Tensor activated_TF = pass.activations.allocate_like(saved.gate_TF);
  backend_.ops().activation_forward(pass.queue, activated_TF, saved.gate_TF, saved.up_TF, Tensor(),
                                    Activation::kSwiGLU);
  return down_proj_.forward(pass, activated_TF, saved.down_proj);
}

Tensor FeedForward::backward(Pass& pass, Tensor dy_TD, const Saved& saved) {
  Tensor dx_TD = pass.scratch.allocate_like(dy_TD);
  Arena::Scope scope(pass.scratch);
  Tensor dactivated_TF = down_proj_.backward(pass, dy_TD, saved.down_proj);
  Tensor dgate_TF = pass.scratch.allocate_like(saved.gate_TF);
  Tensor dup_TF = pass.scratch.allocate_like(saved.up_TF);
  backend_.ops().activation_backward(pass.queue, dgate_TF, dup_TF, Tensor(), dactivated_TF,
                                     saved.gate_TF, saved.up_TF, Tensor(), Activation::kSwiGLU);
  backend_.ops().fill(pass.queue, dx_TD, 0.0);
  up_proj_.backward_add(pass, dx_TD, dup_TF, saved.up_proj);
  gate_proj_.backward_add(pass, dx_TD, dgate_TF, saved.gate_proj);
  return dx_TD;
}

void FeedForward::append_parameters(ParameterList& list) {
  for (Linear* linear : {&gate_proj_, &up_proj_, &down_proj_}) list.push_back(&linear->weight());
}

}  // namespace switchyard
