// Router: which experts get a token, and with what weight, for the tokens that this rank owns
// (model/tensor_parallel.h). Scopes of the balance loss and of the capacity reach over ranks; what
// they need of each other's tokens is summed or gathered.
//
//   logits = x Wg^T (f32 at least);  probs = softmax over all experts;
//   experts = top k of probs;  weights = their probs, renormalised over the k when k > 1
//   (`moe.norm_topk_prob`; for k = 1 the weight must keep its gradient, as in Switch).
// Two losses keep the load even: the balance loss (arXiv 2101.03961), taken on the choice *before*
// drops within scopes that no grid can change (`moe.load_balancing_scope`), and the z-loss
// (arXiv 2202.08906). With `token_drop_policy: capacity`, experts that are full drop choices here;
// kept weights are not renormalised.
#pragma once

#include <optional>
#include <string>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "config/run_config.h"
#include "model/parameter.h"
#include "model/pass.h"
#include "model/tensor_parallel.h"

namespace switchyard {

class Router {
 public:
  struct Saved {
    Tensor input_TD;         // x of the tokens this rank owns, or x with jitter
    Tensor probs_TE, lse_T;  // softmax of the logits and its log-sum-exp
    Tensor expert_TA;        // i32, the choice before drops
    Tensor score_TA;         // probabilities of the chosen
    Tensor weight_TA;
    Tensor prob_gradient_SE;  // d(balance loss of the scope) / d(prob), f64
    Tensor kept_TA;           // i32, expert_TA with -1 where dropped
  };

  // `moe_index`: which MoE layer of the model this is, counted from 0. `stage`: the ranks that
  // share the global micro-batch.
  Router(Backend& backend, const TensorParallel& tp, Communicator& stage, const std::string& name,
         const RunConfig& config, int moe_index);

  void forward(Pass& pass, Tensor x_TD, Saved& saved) const;
  // From the gradient of weight_TA; adds the gradients of the balance loss and the z-loss.
  Tensor backward(Pass& pass, Tensor dweight_TA, const Saved& saved);

  Parameter& weight() { return weight_; }

 private:
  void choose_experts(Pass& pass, Tensor logits_TE, Saved& saved) const;
  void add_balance_loss(Pass& pass, Saved& saved) const;
  void drop_tokens(Pass& pass, Saved& saved) const;
  // The ranks that hold tokens of the same scopes, their rows in their order, and what this rank's
  // first row is among them.
  struct ScopeGroup {
    Communicator& ranks;
    std::vector<int64_t> rows;
    int64_t first_row;
    int64_t num_scopes;
    int64_t rows_per_scope;
  };
  ScopeGroup group_of(const Pass& pass, BalanceScope scope) const;
  void log_routes(Pass& pass, const Saved& saved) const;
  bool use_given_experts(Pass& pass, Saved& saved) const;
  double input_jitter(const Pass& pass) const;
  // Tokens per expert and scope before drops set in, or none: dropless.
  std::optional<double> capacity_factor(const Pass& pass) const;
  // First row that this rank owns, in the global micro-batch.
  int64_t first_row(const Pass& pass) const;

  Backend& backend_;
  const TensorParallel& tp_;
  Communicator& stage_;
  MoeConfig config_;
  bool normalize_;
  int moe_index_;
  uint64_t jitter_key_;
  Parameter weight_;  // (E, D)
};

}  // namespace switchyard
