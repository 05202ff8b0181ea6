#include "model/moe/sinkhorn.h"

#include "backend/ops.h"

namespace switchyard {

void choose_by_sinkhorn(Backend& backend, Pass& pass, const ScopeGroup& group, Tensor expert_TA,
                        Tensor logits_TE, int iterations) {
  Ops& ops = backend.ops();
  Arena::Scope temporaries(pass.scratch);
  Tensor cost_TE = pass.scratch.allocate(DType::kF64, logits_TE.shape());
  Tensor factor_SE = pass.scratch.allocate(DType::kF64, {group.num_scopes, logits_TE.dim(1)});
  Tensor sum_SE = pass.scratch.allocate_like(factor_SE);
  ops.sinkhorn_costs(pass.queue, cost_TE, logits_TE);
  ops.fill(pass.queue, factor_SE, 1.0);
  for (int i = 0; i < iterations; ++i) {
    ops.sinkhorn_sums(pass.queue, sum_SE, factor_SE, cost_TE, group.first_row,
                      group.rows_per_scope);
    backend.wait(pass.queue, group.ranks.all_reduce_sum(sum_SE, backend.record(pass.queue)));
    ops.sinkhorn_factors(pass.queue, factor_SE, sum_SE);
  }
  ops.sinkhorn_choice(pass.queue, expert_TA, factor_SE, cost_TE, group.first_row,
                      group.rows_per_scope);
}

}  // namespace switchyard
