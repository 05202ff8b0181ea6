#include "model/moe/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/random.h"
#include "model/moe/routing_log.h"
#include "model/moe/sinkhorn.h"
#include "model/weight_gradients.h"

namespace switchyard {
namespace {

std::vector<int32_t> download_i32(Backend& backend, Queue queue, Tensor tensor) {
  std::vector<int32_t> values(static_cast<size_t>(tensor.numel()));
  backend.download(queue, values.data(), tensor);
  backend.host_wait(backend.record(queue));
  return values;
}

DropOrder order_of(const MoeConfig& config) {
  return config.drop_order == DropOrderConfig::kProbs ? DropOrder::kProbs : DropOrder::kPosition;
}

RouterRule rule_of(const MoeConfig& config) {
  const bool is_sigmoid = config.router == RouterKind::kSigmoid ||
                          (config.router == RouterKind::kSinkhorn && config.top_k == 1);
  return {.score = is_sigmoid ? RouterScore::kSigmoid : RouterScore::kSoftmax,
          .normalize = config.norm_topk_prob && config.top_k > 1,
          .scale = config.routed_scaling_factor,
          .num_groups = config.n_group,
          .top_groups = config.topk_group};
}

}  // namespace

Router::Router(Backend& backend, const TensorParallel& tp, Communicator& stage,
               const std::string& name, const RunConfig& config, int moe_index)
    : backend_(backend),
      scopes_(tp, stage),
      config_(config.moe),
      rule_(rule_of(config.moe)),
      moe_index_(moe_index),
      jitter_key_(random_key(config.training.seed, name + ".jitter")),
      weight_(
          dense_parameter(name + ".weight", {config.moe.num_experts, config.model.hidden_size})),
      balance_loss_(backend, config.moe, moe_index) {
  weight_.weight_decay = false;
  tp.replicate(weight_, TensorParallel::Sees::kOwnRows);
  if (config.moe.router_bias_update_rate > 0)
    bias_.emplace(backend, stage, name + ".e_score_correction_bias", config.moe.num_experts,
                  config.moe.router_bias_update_rate);
}

void Router::forward(Pass& pass, Tensor x_TD, Saved& saved) const {
  Ops& ops = backend_.ops();
  saved.input_TD = x_TD;
  if (const double eps = input_jitter(pass); eps > 0) {
    saved.input_TD = pass.activations.allocate_like(x_TD);
    ops.jitter(pass.queue, saved.input_TD, x_TD, eps, jitter_key_,
               static_cast<uint64_t>(pass.random_stream), scopes_.first_row(pass.batch));
  }
  Arena::Scope scope(pass.scratch);
  Arena& arena = rule_.score == RouterScore::kSigmoid ? pass.activations : pass.scratch;
  Tensor logits_TE =
      arena.allocate(accumulator_of(x_TD.dtype()), {x_TD.dim(0), config_.num_experts});
  if (rule_.score == RouterScore::kSigmoid) saved.logits_TE = logits_TE;
  ops.matmul_nt(pass.queue, logits_TE, saved.input_TD, weight_.weight);
  compute_scores(pass, logits_TE, saved);
  if (pass.recomputing) return;  // losses, drops and statistics are those of the first time
  saved.prob_gradient_SE =
      balance_loss_.forward(pass, scopes_.group_of(pass.batch, config_.load_balancing_scope),
                            saved.expert_TA, saved.probs_TE, rule_.score);
  drop_tokens(pass, saved);
  log_routes(pass, saved);
  ops.expert_load(pass.queue, pass.statistics.expert_load.rows(moe_index_, 1).flat(),
                  saved.kept_TA);
  if (bias_ && pass.training && !weight_.is_frozen()) bias_->count(pass.queue, saved.expert_TA);
}

Tensor Router::backward(Pass& pass, Tensor dweight_TA, const Saved& saved) {
  Ops& ops = backend_.ops();
  Tensor dx_TD = pass.scratch.allocate_like(saved.input_TD);
  Arena::Scope scope(pass.scratch);
  Tensor dlogits_TE = pass.scratch.allocate_like(saved.probs_TE);
  const ScopeGroup group = scopes_.group_of(pass.batch, config_.load_balancing_scope);
  // The z-loss is a mean over all tokens of the step.
  const double z_scale =
      config_.z_loss_coef / static_cast<double>(pass.num_micro_batches * pass.batch.global_rows);
  ops.router_backward(pass.queue, dlogits_TE, dweight_TA, saved.expert_TA, saved.weight_TA,
                      saved.probs_TE, saved.lse_T, saved.logits_TE, saved.prob_gradient_SE, rule_,
                      group.first_row, group.rows_per_scope, balance_loss_.scale(pass, group),
                      z_scale);
  add_matmul_gradient(backend_, pass, weight_, dlogits_TE, saved.input_TD);
  ops.matmul_nn(pass.queue, dx_TD, dlogits_TE, weight_.weight);
  if (const double eps = input_jitter(pass); eps > 0)
    ops.jitter(pass.queue, dx_TD, dx_TD, eps, jitter_key_,
               static_cast<uint64_t>(pass.random_stream), scopes_.first_row(pass.batch));
  return dx_TD;
}

void Router::compute_scores(Pass& pass, Tensor logits_TE, Saved& saved) const {
  const DType real = logits_TE.dtype();
  const int64_t T = logits_TE.dim(0), A = config_.top_k;
  saved.probs_TE = pass.activations.allocate_like(logits_TE);
  saved.lse_T = pass.activations.allocate(real, {T});
  saved.score_TA = pass.activations.allocate(real, {T, A});
  saved.weight_TA = pass.activations.allocate(real, {T, A});
  const bool experts_are_given = choose_experts(pass, logits_TE, saved);
  Arena::Scope scope(pass.scratch);
  Tensor unused = pass.scratch.allocate(DType::kF64, {2});
  if (pass.recomputing) backend_.ops().fill(pass.queue, unused, 0.0);
  const auto sum_of = [&](Tensor statistic_M, int64_t i) {
    return pass.recomputing ? unused.rows(i, 1) : statistic_M.rows(moe_index_, 1);
  };
  backend_.ops().router_forward(pass.queue, saved.probs_TE, saved.lse_T, saved.expert_TA,
                                saved.score_TA, saved.weight_TA, sum_of(pass.statistics.z_sum, 0),
                                sum_of(pass.statistics.entropy_sum, 1), logits_TE,
                                bias_ ? bias_->bias_E() : Tensor(), rule_, experts_are_given);
}

// A forward that has been before keeps its choice.
bool Router::choose_experts(Pass& pass, Tensor logits_TE, Saved& saved) const {
  if (pass.recomputing) return true;
  saved.expert_TA = pass.kept.allocate(DType::kI32, {logits_TE.dim(0), config_.top_k});
  if (use_given_experts(pass, saved)) return true;
  if (config_.router != RouterKind::kSinkhorn || !pass.training) return false;
  choose_by_sinkhorn(backend_, pass, scopes_.group_of(pass.batch, config_.load_balancing_scope),
                     saved.expert_TA, logits_TE, config_.sinkhorn_iterations);
  return true;
}

void Router::drop_tokens(Pass& pass, Saved& saved) const {
  Ops& ops = backend_.ops();
  saved.kept_TA = pass.kept.allocate(DType::kI32, saved.expert_TA.shape());
  if (pass.routing != nullptr && pass.routing->replaying()) {
    const auto& kept = pass.routing->at(pass.random_stream, moe_index_).kept;
    backend_.upload(pass.queue, saved.kept_TA,
                    kept.data() + scopes_.first_row(pass.batch) * config_.top_k);
    return;
  }
  const std::optional<double> factor = capacity_factor(pass);
  if (!factor) {
    ops.copy(pass.queue, saved.kept_TA, saved.expert_TA);
    return;
  }
  // Every rank of the group sees all choices of its scopes, decides for all, and keeps its own
  // rows.
  const ScopeGroup group = scopes_.group_of(pass.batch, config_.capacity_scope);
  const auto choices = static_cast<double>(config_.top_k * group.rows_per_scope);
  const auto capacity =
      std::max(config_.min_capacity,
               static_cast<int64_t>(std::ceil(*factor * choices / config_.num_experts)));
  const int64_t rows = std::accumulate(group.rows.begin(), group.rows.end(), int64_t{0});
  Arena::Scope scope(pass.scratch);
  Tensor expert = pass.scratch.allocate(DType::kI32, {rows, config_.top_k});
  Tensor score = pass.scratch.allocate(saved.score_TA.dtype(), {rows, config_.top_k});
  Tensor kept = pass.scratch.allocate_like(expert);
  const Event ready = backend_.record(pass.queue);
  backend_.wait(pass.queue,
                group.ranks.all_gather_rows(expert, saved.expert_TA, group.rows, ready));
  backend_.wait(pass.queue, group.ranks.all_gather_rows(score, saved.score_TA, group.rows, ready));
  ops.drop_tokens(pass.queue, kept, expert, score, config_.num_experts, group.num_scopes, capacity,
                  order_of(config_));
  ops.copy(pass.queue, saved.kept_TA, kept.rows(group.first_row, saved.expert_TA.dim(0)));
}

bool Router::use_given_experts(Pass& pass, Saved& saved) const {
  if (pass.routing != nullptr && pass.routing->replaying()) {
    const auto& expert = pass.routing->at(pass.random_stream, moe_index_).expert;
    backend_.upload(pass.queue, saved.expert_TA,
                    expert.data() + scopes_.first_row(pass.batch) * config_.top_k);
    return true;
  }
  if (config_.force_balanced)
    backend_.ops().balanced_choice(pass.queue, saved.expert_TA, scopes_.first_row(pass.batch),
                                   config_.num_experts);
  return config_.force_balanced;
}

void Router::log_routes(Pass& pass, const Saved& saved) const {
  if (pass.routing == nullptr || pass.routing->replaying()) return;
  SY_CHECK(saved.expert_TA.dim(0) == pass.batch.global_rows,
           "routing is recorded on one rank, which sees all rows");
  pass.routing->record(pass.random_stream, moe_index_,
                       {.expert = download_i32(backend_, pass.queue, saved.expert_TA),
                        .kept = download_i32(backend_, pass.queue, saved.kept_TA)});
}

double Router::input_jitter(const Pass& pass) const {
  return pass.training ? config_.input_jitter_eps : 0.0;
}

std::optional<double> Router::capacity_factor(const Pass& pass) const {
  if (config_.token_drop_policy == TokenDropPolicy::kDropless) return std::nullopt;
  return pass.training ? std::optional(config_.capacity_factor) : config_.eval_capacity_factor;
}

void Router::update_bias(Queue queue, Tensor scalars) const {
  if (bias_ && !weight_.is_frozen()) bias_->update(queue, scalars);
}

std::optional<StateTensor> Router::bias() const {
  return bias_ ? std::optional(bias_->state()) : std::nullopt;
}

}  // namespace switchyard
