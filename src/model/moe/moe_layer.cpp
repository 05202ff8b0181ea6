#include "model/moe/moe_layer.h"

#include "backend/ops.h"

namespace switchyard {

MoeLayer::MoeLayer(Backend& backend, const ProcessGrid& grid, const std::string& name,
                   const RunConfig& config, int moe_index)
    : backend_(backend),
      router_(backend, grid.stage(), name + ".gate", config, moe_index),
      dispatcher_(backend, grid.ep(), config),
      experts_(backend, name + ".experts", config, grid.me().ep, grid.sizes().ep) {
  if (config.moe.num_shared_experts > 0)
    shared_.emplace(backend, name + ".shared_experts", config.model.hidden_size,
                    *config.moe.shared_expert_intermediate_size);
}

Tensor MoeLayer::forward(Pass& pass, Tensor x_TD, Saved& saved) {
  router_.forward(pass, x_TD, saved.router);
  dispatcher_.plan(pass, saved.router.kept_TA, saved.router.weight_TA, saved.plan);
  Tensor in_RD = dispatcher_.dispatch(pass, x_TD, saved.plan);
  Tensor out_RD = experts_.forward(pass, in_RD, saved.plan, saved.experts);
  Tensor y_TD = dispatcher_.combine(pass, out_RD, saved.plan);
  if (shared_)
    backend_.ops().add(pass.queue, y_TD, y_TD, shared_->forward(pass, x_TD, saved.shared));
  return y_TD;
}

// The mirror image of forward(): read it bottom-up.
Tensor MoeLayer::backward(Pass& pass, Tensor dy_TD, const Saved& saved) {
  Ops& ops = backend_.ops();
  Tensor dx_TD = pass.scratch.allocate_like(dy_TD);
  Arena::Scope scope(pass.scratch);
  Tensor dout_RD = dispatcher_.combine_backward(pass, dy_TD, saved.plan);
  const auto [din_RD, dgate_R] = experts_.backward(pass, dout_RD, saved.plan, saved.experts);
  const auto [dtoken_TD, dweight_TA] =
      dispatcher_.dispatch_backward(pass, din_RD, dgate_R, saved.plan);
  ops.add(pass.queue, dx_TD, dtoken_TD, router_.backward(pass, dweight_TA, saved.router));
  if (shared_) ops.add(pass.queue, dx_TD, dx_TD, shared_->backward(pass, dy_TD, saved.shared));
  return dx_TD;
}

void MoeLayer::append_parameters(ParameterList& list) {
  list.push_back(&router_.weight());
  experts_.append_parameters(list);
  if (shared_) shared_->append_parameters(list);
}

}  // namespace switchyard
