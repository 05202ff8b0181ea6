// Router: which experts get a token, and with what weight.
//
//   logits = x Wg^T (in the real dtype, f32 at least);  probs = softmax over all experts;
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

namespace switchyard {

class Router {
 public:
  struct Saved {
    Tensor input_TD;         // x, or x with jitter
    Tensor probs_TE, lse_T;  // softmax of the logits and its log-sum-exp
    Tensor expert_TA;        // i32, the choice before drops
    Tensor score_TA;         // probabilities of the chosen
    Tensor weight_TA;
    Tensor prob_gradient_SE;  // d(balance loss of the scope) / d(prob), f64
    Tensor kept_TA;           // i32, expert_TA with -1 where dropped
  };

  // `moe_index`: which MoE layer of the stage this is, counted from 0. `stage`: the ranks that
  // share the global micro-batch.
  Router(Backend& backend, Communicator& stage, const std::string& name, const RunConfig& config,
         int moe_index);

  void forward(Pass& pass, Tensor x_TD, Saved& saved) const;
  // From the gradient of weight_TA; adds the gradients of the balance loss and the z-loss.
  Tensor backward(Pass& pass, Tensor dweight_TA, const Saved& saved);

  Parameter& weight() { return weight_; }

 private:
  void choose_experts(Pass& pass, Tensor logits_TE, Saved& saved) const;
  void add_balance_loss(Pass& pass, Saved& saved) const;
  void drop_tokens(Pass& pass, Saved& saved) const;
  Tensor drop_in_global_micro_batch(Pass& pass, const Saved& saved, int64_t capacity) const;
  void log_routes(Pass& pass, const Saved& saved) const;
  bool use_given_experts(Pass& pass, Saved& saved) const;
  double input_jitter(const Pass& pass) const;
  // Tokens per expert and scope before drops set in, or none: dropless.
  std::optional<double> capacity_factor(const Pass& pass) const;
  int64_t num_local_scopes(const Pass& pass, BalanceScope scope) const;
  int64_t tokens_per_scope(const Pass& pass, BalanceScope scope) const;

  Backend& backend_;
  Communicator& stage_;
  MoeConfig config_;
  bool normalize_;
  int moe_index_;
  uint64_t jitter_key_;
  Parameter weight_;  // (E, D)
};

}  // namespace switchyard
