// Weight gradients: what a backward pass adds to Parameter's gradients, all in one place, because
// two things are decided here for every layer.
//   Frozen rows get nothing, and cost nothing.
//   When the schedule splits the backward (zero bubble, arXiv 2401.10241), the additions are put
//   off: Pass::weight_work then collects them, and run_weight_work() does them later. What they
//   read must live until then: gradients of outputs are copied to Pass::kept here; inputs (x) have
//   to be there already (Pass::saved_in_backward()).
#pragma once

#include <functional>
#include <vector>

#include "backend/backend.h"
#include "model/parameter.h"
#include "model/pass.h"

namespace switchyard {

using WeightWork = std::vector<std::function<void()>>;

// w += dy^T x. `dy_is_kept`: dy lives in Pass::kept already.
void add_matmul_gradient(Backend& backend, Pass& pass, const Parameter& w_NK, Tensor dy_TN,
                         Tensor x_TK, bool dy_is_kept = false);
// The same for one matrix per expert; expert e owns rows [begin[e], begin[e + 1]).
void add_grouped_matmul_gradient(Backend& backend, Pass& pass, const Parameter& w_LNK, Tensor dy_RN,
                                 Tensor x_RK, Tensor begin_L1);
// Of RMSNorm's weight.
void add_norm_gradient(Backend& backend, Pass& pass, const Parameter& weight_D, Tensor dy_TD,
                       Tensor x_TD, Tensor inv_rms_T);
// Of the rows of an embedding table that this rank holds.
void add_embedding_gradient(Backend& backend, Pass& pass, const Parameter& table_VD, Tensor dy_TD,
                            Tensor ids_T);

// Does what was put off, in its order, and forgets it.
void run_weight_work(WeightWork& work);

}  // namespace switchyard
