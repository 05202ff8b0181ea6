#include "model/moe/router_bias.h"

#include <utility>

#include "backend/ops.h"

namespace switchyard {

RouterBias::RouterBias(Backend& backend, Communicator& stage, std::string name, int num_experts,
                       double rate)
    : backend_(backend), stage_(stage), name_(std::move(name)), rate_(rate) {
  const int64_t E = num_experts;
  memory_ = Buffer(backend, (2 * E + 1) * static_cast<int64_t>(sizeof(double)));
  const Tensor all = memory_.tensor(DType::kF64, {2 * E + 1});
  backend.ops().fill(backend.compute_queue(), all, 0.0);
  bias_E_ = all.rows(0, E);
  count_E1_ = all.rows(E, E + 1);
}

void RouterBias::count(Queue queue, Tensor expert_TA) const {
  backend_.ops().expert_load(queue, count_E1_, expert_TA);
}

void RouterBias::update(Queue queue, Tensor scalars) const {
  backend_.wait(queue, stage_.all_reduce_sum(count_E1_, backend_.record(queue)));
  backend_.ops().update_router_bias(queue, bias_E_, count_E1_, scalars, rate_);
  backend_.ops().fill(queue, count_E1_, 0.0);
}

}  // namespace switchyard
