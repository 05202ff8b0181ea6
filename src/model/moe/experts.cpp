#include "model/moe/experts.h"

#include <utility>

#include "model/weight_gradients.h"

namespace switchyard {
namespace {

Activation activation_of(ExpertActivation activation) {
  switch (activation) {
    case ExpertActivation::kReLU:
      return Activation::kReLU;
    case ExpertActivation::kGELU:
      return Activation::kGELU;
    case ExpertActivation::kSwiGLU:
      break;
  }
  return Activation::kSwiGLU;
}

// One matrix (rows, columns) per expert: experts cut over the ep ranks, matrices along `sliced_dim`
// over the etp ranks.
Parameter expert_parameter(const ProcessGrid& grid, std::string name, int64_t num_experts,
                           int64_t rows, int64_t columns, int sliced_dim) {
  Parameter parameter = sliced_parameter(std::move(name), {num_experts, rows, columns}, 0,
                                         grid.me().ep, grid.sizes().ep);
  slice(parameter, sliced_dim, grid.me().etp, grid.sizes().etp);
  parameter.group = ReplicaGroup::kExpert;
  return parameter;
}

}  // namespace

Experts::Experts(Backend& backend, const ProcessGrid& grid, const std::string& name,
                 const RunConfig& config)
    : backend_(backend),
      activation_(activation_of(config.moe.expert_activation)),
      recompute_activation_(config.activation_checkpointing.policy == RecomputePolicy::kSelective) {
  const int64_t E = config.moe.num_experts, D = config.model.hidden_size,
                F = *config.model.moe_intermediate_size;
  gate_proj_ = expert_parameter(grid, name + ".gate_proj.weight", E, F, D, 1);
  if (gated()) up_proj_ = expert_parameter(grid, name + ".up_proj.weight", E, F, D, 1);
  down_proj_ = expert_parameter(grid, name + ".down_proj.weight", E, D, F, 2);
}

Tensor Experts::forward(Pass& pass, Tensor x_RD, const Dispatcher::Plan& plan, Saved& saved) const {
  Ops& ops = backend_.ops();
  const int64_t R = x_RD.dim(0), F = gate_proj_.shape[1];
  const Tensor begin = plan.expert_begin_L1;
  saved.x_RD = x_RD;
  saved.hidden_RF = pass.activations.allocate(x_RD.dtype(), {R, F});
  ops.grouped_matmul_nt(pass.queue, saved.hidden_RF, x_RD, gate_proj_.weight, begin);
  saved.up_RF = Tensor();
  if (gated()) {
    saved.up_RF = pass.activations.allocate_like(saved.hidden_RF);
    ops.grouped_matmul_nt(pass.queue, saved.up_RF, x_RD, up_proj_.weight, begin);
  }
  Tensor y_RD = pass.activations.allocate_like(x_RD);
  Arena::Scope scope(pass.scratch);
  saved.activated_RF =
      activate(pass, recompute_activation_ ? pass.scratch : pass.activations, plan, saved);
  ops.grouped_matmul_nt(pass.queue, y_RD, saved.activated_RF, down_proj_.weight, begin);
  if (recompute_activation_) saved.activated_RF = Tensor();
  return y_RD;
}

Experts::InputGradient Experts::backward(Pass& pass, Tensor dy_RD, const Dispatcher::Plan& plan,
                                         const Saved& saved) {
  Ops& ops = backend_.ops();
  const Tensor begin = plan.expert_begin_L1;
  InputGradient gradient;
  gradient.dx_RD = pass.scratch.allocate_like(saved.x_RD);
  gradient.dgate_R = pass.scratch.allocate_like(plan.gate_R);

  Arena::Scope scope(pass.scratch);
  Tensor activated_RF = saved.activated_RF;
  if (recompute_activation_ && !down_proj_.is_frozen())
    activated_RF = activate(pass, pass.saved_in_backward(), plan, saved);
  Tensor dactivated_RF = pass.scratch.allocate_like(saved.hidden_RF);
  ops.grouped_matmul_nn(pass.queue, dactivated_RF, dy_RD, down_proj_.weight, begin);
  add_grouped_matmul_gradient(backend_, pass, down_proj_, dy_RD, activated_RF, begin);

  Tensor dhidden_RF = pass.scratch.allocate_like(saved.hidden_RF);
  Tensor dup_RF = gated() ? pass.scratch.allocate_like(saved.up_RF) : Tensor();
  ops.activation_backward(pass.queue, dhidden_RF, dup_RF, gradient.dgate_R, dactivated_RF,
                          saved.hidden_RF, saved.up_RF, plan.gate_R, activation_);

  ops.grouped_matmul_nn(pass.queue, gradient.dx_RD, dhidden_RF, gate_proj_.weight, begin);
  add_grouped_matmul_gradient(backend_, pass, gate_proj_, dhidden_RF, saved.x_RD, begin);
  if (gated()) {
    ops.grouped_matmul_nn_add(pass.queue, gradient.dx_RD, dup_RF, up_proj_.weight, begin);
    add_grouped_matmul_gradient(backend_, pass, up_proj_, dup_RF, saved.x_RD, begin);
  }
  return gradient;
}

Tensor Experts::activate(Pass& pass, Arena& arena, const Dispatcher::Plan& plan,
                         const Saved& saved) const {
  Tensor activated_RF = arena.allocate_like(saved.hidden_RF);
  backend_.ops().activation_forward(pass.queue, activated_RF, saved.hidden_RF, saved.up_RF,
                                    plan.gate_R, activation_);
  return activated_RF;
}

void Experts::append_parameters(ParameterList& list) {
  list.push_back(&gate_proj_);
  if (gated()) list.push_back(&up_proj_);
  list.push_back(&down_proj_);
}

}  // namespace switchyard
