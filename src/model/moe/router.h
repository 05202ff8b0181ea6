// Router: which experts get a token, and with what weight, for the tokens that this rank owns
// (model/tensor_parallel.h). Scopes of the balance loss and of the capacity reach over ranks; what
// they need of each other's tokens is summed or gathered.
//
//   logits = x Wg^T (f32 at least);  scores = softmax over all experts, or sigmoid;
//   experts = top k of score + bias (router_bias.h), perhaps of the best groups of experts only;
//   weights = scores of the chosen, renormalised over the k when k > 1 (`moe.norm_topk_prob`; for
//   k = 1 the weight must keep its gradient, as in Switch), times `moe.routed_scaling_factor`.
// The choice has no gradient. `moe.router: sinkhorn` chooses by Sinkhorn in training (sinkhorn.h)
// and by score else; its scores are sigmoids for k = 1 (a softmax would favour what the choice does
// not) and the softmax for larger k.
// Two losses: the balance loss (balance_loss.h) keeps the load even, the z-loss (arXiv 2202.08906)
// the logits small. With `token_drop_policy: capacity`, experts that are full drop choices here;
// kept weights are not renormalised.
#pragma once

#include <optional>
#include <string>

#include "backend/backend.h"
#include "backend/ops.h"
#include "comm/communicator.h"
#include "config/run_config.h"
#include "model/moe/balance_loss.h"
#include "model/moe/router_bias.h"
#include "model/moe/token_scopes.h"
#include "model/parameter.h"
#include "model/pass.h"
#include "model/tensor_parallel.h"

namespace switchyard {

class Router {
 public:
  struct Saved {
    Tensor input_TD;         // x of the tokens this rank owns, or x with jitter
    Tensor probs_TE, lse_T;  // scores of all experts; log-sum-exp of the logits
    Tensor logits_TE;        // of sigmoids only
    Tensor expert_TA;        // i32, the choice before drops
    Tensor score_TA;         // scores of the chosen
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

  // At the end of a step, collective over the stage: moves the bias, if there is one.
  void update_bias(Queue queue, Tensor scalars) const;

  Parameter& weight() { return weight_; }
  std::optional<StateTensor> bias() const;

 private:
  void compute_scores(Pass& pass, Tensor logits_TE, Saved& saved) const;
  // Fills in saved.expert_TA unless the scores are to choose; says whether it did.
  bool choose_experts(Pass& pass, Tensor logits_TE, Saved& saved) const;
  bool use_given_experts(Pass& pass, Saved& saved) const;
  void drop_tokens(Pass& pass, Saved& saved) const;
  void log_routes(Pass& pass, const Saved& saved) const;
  double input_jitter(const Pass& pass) const;
  // Tokens per expert and scope before drops set in, or none: dropless.
  std::optional<double> capacity_factor(const Pass& pass) const;

  Backend& backend_;
  TokenScopes scopes_;
  MoeConfig config_;
  RouterRule rule_;
  int moe_index_;
  uint64_t jitter_key_;
  Parameter weight_;  // (E, D)
  BalanceLoss balance_loss_;
  std::optional<RouterBias> bias_;
};

}  // namespace switchyard
