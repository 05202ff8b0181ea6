#include "model/moe/moe_layer.h"

#include "backend/ops.h"

namespace switchyard {

MoeLayer::MoeLayer(Backend& backend, const ProcessGrid& grid, const TensorParallel& tp,
                   const std::string& name, const RunConfig& config, int moe_index)
    : backend_(backend),
      tp_(tp),
      router_(backend, tp, grid.stage(), name + ".gate", config, moe_index),
      dispatcher_(backend, grid, config),
      experts_(backend, grid, name + ".experts", config) {
  if (config.moe.num_shared_experts > 0)
    shared_.emplace(backend, tp, name + ".shared_experts", config.model.hidden_size,
                    *config.moe.shared_expert_intermediate_size,
                    config.activation_checkpointing.policy == RecomputePolicy::kSelective);
}

Tensor MoeLayer::forward(Pass& pass, Tensor x_TD, Saved& saved) {
  Tensor y_TD = pass.activations.allocate_like(x_TD);
  const Tensor own_TD = tp_.own_rows(pass, x_TD);
  router_.forward(pass, own_TD, saved.router);
  dispatcher_.plan(pass, saved.router.kept_TA, saved.router.weight_TA, saved.plan);
  Tensor in_RD = dispatcher_.dispatch(pass, own_TD, saved.plan);
  Tensor out_RD = experts_.forward(pass, in_RD, saved.plan, saved.experts);
  dispatcher_.combine(pass, tp_.own_rows(pass, y_TD), out_RD, saved.plan);
  tp_.share_rows(pass, y_TD);
  if (shared_)
    backend_.ops().add(pass.queue, y_TD, y_TD, shared_->forward(pass, x_TD, saved.shared));
  return y_TD;
}

// The mirror image of forward(): read it bottom-up.
Tensor MoeLayer::backward(Pass& pass, Tensor dy_TD, const Saved& saved) {
  Ops& ops = backend_.ops();
  Tensor dx_TD = pass.scratch.allocate_like(dy_TD);
  Arena::Scope scope(pass.scratch);
  const Tensor dy_own_TD = tp_.own_rows(pass, dy_TD);
  Tensor dout_RD = dispatcher_.combine_backward(pass, dy_own_TD, saved.plan);
  const auto [din_RD, dgate_R] = experts_.backward(pass, dout_RD, saved.plan, saved.experts);
  const auto [dtoken_TD, dweight_TA] =
      dispatcher_.dispatch_backward(pass, din_RD, dgate_R, saved.plan);
  ops.add(pass.queue, tp_.own_rows(pass, dx_TD), dtoken_TD,
          router_.backward(pass, dweight_TA, saved.router));
  tp_.share_rows(pass, dx_TD);
  if (shared_) ops.add(pass.queue, dx_TD, dx_TD, shared_->backward(pass, dy_TD, saved.shared));
  return dx_TD;
}

void MoeLayer::append_parameters(ParameterList& list) {
  list.push_back(&router_.weight());
  experts_.append_parameters(list);
  if (shared_) shared_->append_parameters(list);
}

}  // namespace switchyard
