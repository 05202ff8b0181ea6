#include "model/moe/balance_loss.h"

#include "core/math.h"

namespace switchyard {

BalanceLoss::BalanceLoss(Backend& backend, const MoeConfig& config, int moe_index)
    : backend_(backend), config_(config), moe_index_(moe_index) {
  if (config.load_balancing_scope != BalanceScope::kGlobalBatch) return;
  memory_ = Buffer(backend, config.num_experts * static_cast<int64_t>(sizeof(double)));
  step_count_1E_ = memory_.tensor(DType::kF64, {1, config.num_experts});
}

Tensor BalanceLoss::forward(Pass& pass, const ScopeGroup& group, Tensor expert_TA, Tensor probs_TE,
                            RouterScore score) const {
  Ops& ops = backend_.ops();
  const int64_t S = group.num_scopes, E = config_.num_experts;
  Tensor prob_gradient_SE = pass.kept.allocate(DType::kF64, {S, E});
  Arena::Scope temporaries(pass.scratch);
  // Counts and probability mass stand together, so that one all-reduce carries both.
  Tensor both = pass.scratch.allocate(DType::kF64, {2 * S, E});
  Tensor count_SE = both.rows(0, S), prob_sum_SE = both.rows(S, S);
  ops.router_statistics(pass.queue, count_SE, prob_sum_SE, expert_TA, probs_TE, score,
                        group.first_row, group.rows_per_scope);
  backend_.wait(pass.queue, group.ranks.all_reduce_sum(both, backend_.record(pass.queue)));
  int64_t counted_tokens = group.rows_per_scope;
  if (!step_count_1E_.is_none() && pass.training) {
    if (pass.micro_batch > 0) ops.add(pass.queue, count_SE, count_SE, step_count_1E_);
    ops.copy(pass.queue, step_count_1E_, count_SE);
    counted_tokens *= pass.micro_batch + 1;
  }
  // All ranks of the group know the loss; the first one reports it.
  Tensor loss_sum = pass.scratch.allocate(DType::kF64, {1});
  ops.fill(pass.queue, loss_sum, 0.0);
  ops.balance_loss(pass.queue, loss_sum, prob_gradient_SE, count_SE, prob_sum_SE,
                   group.rows_per_scope, counted_tokens, config_.top_k);
  const Tensor total = pass.statistics.balance_sum.rows(moe_index_, 1);
  if (group.ranks.rank() == 0) ops.add(pass.queue, total, total, loss_sum);
  return prob_gradient_SE;
}

double BalanceLoss::scale(const Pass& pass, const ScopeGroup& group) const {
  const int64_t scopes = div_exact(pass.batch.global_rows, group.rows_per_scope);
  return config_.load_balancing_loss_coef / static_cast<double>(pass.num_micro_batches * scopes);
}

}  // namespace switchyard
