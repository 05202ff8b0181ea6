#include "optim/optimizer.h"

namespace switchyard {

Optimizer::Optimizer(Backend& backend, const ProcessGrid& grid, const RunConfig& config,
                     const ParameterList& parameters)
    : backend_(backend),
      grid_(grid),
      params_(config.optimizer.params),
      max_norm_(config.gradient_clipping),
      dense_(backend, parameters, ReplicaGroup::kDense, config.real(),
             config.model.initializer_range, config.training.seed),
      experts_(backend, parameters, ReplicaGroup::kExpert, config.real(),
               config.model.initializer_range, config.training.seed),
      norms_(backend, (2 + grid.ep().size()) * static_cast<int64_t>(sizeof(double))) {}

void Optimizer::zero_grads() {
  const Queue queue = backend_.compute_queue();
  backend_.ops().fill(queue, dense_.gradients(), 0.0);
  backend_.ops().fill(queue, experts_.gradients(), 0.0);
}

void Optimizer::reduce_grads() {
  const Queue queue = backend_.compute_queue();
  const Event ready = backend_.record(queue);
  backend_.wait(queue, grid_.dp().all_reduce_sum(dense_.gradients(), ready));
  backend_.wait(queue, grid_.edp().all_reduce_sum(experts_.gradients(), ready));
}

void Optimizer::clip_grads(Tensor scalars) {
  Ops& ops = backend_.ops();
  const Queue queue = backend_.compute_queue();
  const int64_t ep_size = grid_.ep().size();
  Tensor all = norms_.tensor(DType::kF64, {2 + ep_size});
  Tensor norms = all.rows(0, 1 + ep_size), my_experts = all.rows(1 + ep_size, 1);
  ops.fill(queue, all, 0.0);
  ops.squared_norm_add(queue, norms.rows(0, 1), dense_.gradients());
  ops.squared_norm_add(queue, my_experts, experts_.gradients());
  const Event ready = backend_.record(queue);
  backend_.wait(queue, grid_.ep().all_gather(norms.rows(1, ep_size), my_experts, ready));
  ops.clip_coefficient(queue, scalars, norms, max_norm_);
}

void Optimizer::adamw_step(Tensor scalars) {
  update(dense_, scalars);
  update(experts_, scalars);
}

void Optimizer::update(const FlatBuffer& buffer, Tensor scalars) {
  for (const FlatBuffer::Range& range : buffer.ranges())
    backend_.ops().adamw(backend_.compute_queue(), range.weight, range.first_moment,
                         range.second_moment, range.gradient, scalars, params_.betas[0],
                         params_.betas[1], params_.eps,
                         range.weight_decay ? params_.weight_decay : 0.0);
}

}  // namespace switchyard
