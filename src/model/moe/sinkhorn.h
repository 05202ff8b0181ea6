// Sinkhorn: a choice of experts that balances itself (S-BASE, arXiv 2202.01169).
#pragma once

#include "backend/backend.h"
#include "model/moe/token_scopes.h"
#include "model/pass.h"

namespace switchyard {

// expert_TA (i32) = for each token the experts of the largest logits, after each expert's have been
// scaled so that all get the same within a scope. Always `iterations` rounds, so that no rank stops
// earlier than another; collective over the scopes' ranks, one all-reduce per round. The choice
// depends on all tokens of the scope, later ones too: it is for training only.
void choose_by_sinkhorn(Backend& backend, Pass& pass, const ScopeGroup& group, Tensor expert_TA,
                        Tensor logits_TE, int iterations);

}  // namespace switchyard
