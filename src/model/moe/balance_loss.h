// BalanceLoss: keeps the load of the experts of one MoE layer even (Switch, arXiv 2101.03961). For
// each scope of tokens (token_scopes.h) E * sum_e f_e P_e: f_e is expert e's share of the choices
// *before* drops, P_e its mean probability.
//
// With `load_balancing_scope: global_batch` (arXiv 2501.11873) P_e is that of a micro-batch and f_e
// that of all micro-batches of the step so far, this one included: a single micro-batch may then be
// uneven, if others make up for it. Micro-batches pass a layer in ascending order under every
// schedule, so the sum does not depend on the grid. Validation has no step: each micro-batch counts
// alone.
#pragma once

#include "backend/backend.h"
#include "backend/ops.h"
#include "config/run_config.h"
#include "model/moe/token_scopes.h"
#include "model/pass.h"

namespace switchyard {

class BalanceLoss {
 public:
  // `moe_index`: which MoE layer of the model this is.
  BalanceLoss(Backend& backend, const MoeConfig& config, int moe_index);

  // Adds the loss of each scope to pass.statistics; returns d(loss of scope)/d(P of a token), (S,
  // E) f64 in pass.kept.
  Tensor forward(Pass& pass, const ScopeGroup& group, Tensor expert_TA, Tensor probs_TE,
                 RouterScore score) const;
  // What the losses of a micro-batch's scopes are multiplied with in the loss of the step: its
  // coefficient / all scopes of the step.
  double scale(const Pass& pass, const ScopeGroup& group) const;

 private:
  Backend& backend_;
  MoeConfig config_;
  int moe_index_;
  Buffer memory_;
  Tensor step_count_1E_;  // f64, choices of the step so far; none for other scopes
};

}  // namespace switchyard
