#include "model/moe/router.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/ops.h"
#include "core/math.h"
#include "core/random.h"
#include "model/moe/routing_log.h"

namespace switchyard {
namespace {

std::vector<int32_t> download_i32(Backend& backend, Queue queue, Tensor tensor) {
  std::vector<int32_t> values(static_cast<size_t>(tensor.numel()));
  backend.download(queue, values.data(), tensor);
  return values;
}

DropOrder order_of(const MoeConfig& config) {
  return config.drop_order == DropOrderConfig::kProbs ? DropOrder::kProbs : DropOrder::kPosition;
}

}  // namespace

Router::Router(Backend& backend, Communicator& stage, const std::string& name,
               const RunConfig& config, int moe_index)
    : backend_(backend),
      stage_(stage),
      config_(config.moe),
      normalize_(config.moe.norm_topk_prob && config.moe.top_k > 1),
      moe_index_(moe_index),
      jitter_key_(random_key(config.training.seed, name + ".jitter")),
      weight_(
          dense_parameter(name + ".weight", {config.moe.num_experts, config.model.hidden_size})) {
  weight_.weight_decay = false;
}

void Router::forward(Pass& pass, Tensor x_TD, Saved& saved) const {
  Ops& ops = backend_.ops();
  saved.input_TD = x_TD;
  if (const double eps = input_jitter(pass); eps > 0) {
    saved.input_TD = pass.activations.allocate_like(x_TD);
    ops.jitter(pass.queue, saved.input_TD, x_TD, eps, jitter_key_,
               static_cast<uint64_t>(pass.random_stream), pass.batch.first_row);
  }
  Arena::Scope scope(pass.scratch);
  Tensor logits_TE = pass.scratch.allocate(x_TD.dtype(), {x_TD.dim(0), config_.num_experts});
  ops.matmul_nt(pass.queue, logits_TE, saved.input_TD, weight_.weight);
  choose_experts(pass, logits_TE, saved);
  add_balance_loss(pass, saved);
  drop_tokens(pass, saved);
  log_routes(pass, saved);
  ops.expert_load(pass.queue, pass.statistics.expert_load.rows(moe_index_, 1).flat(),
                  saved.kept_TA);
}

Tensor Router::backward(Pass& pass, Tensor dweight_TA, const Saved& saved) {
  Ops& ops = backend_.ops();
  Tensor dx_TD = pass.scratch.allocate_like(saved.input_TD);
  Arena::Scope scope(pass.scratch);
  Tensor dlogits_TE = pass.scratch.allocate_like(saved.probs_TE);
  // The balance loss is a mean over all scopes of the step, the z-loss over all its tokens.
  const auto num_micro_batches = static_cast<double>(pass.num_micro_batches);
  const int64_t scopes_of_micro_batch =
      div_exact(pass.batch.global_rows, tokens_per_scope(pass, config_.load_balancing_scope));
  const double balance_scale = config_.load_balancing_loss_coef /
                               (num_micro_batches * static_cast<double>(scopes_of_micro_batch));
  const double z_scale =
      config_.z_loss_coef / (num_micro_batches * static_cast<double>(pass.batch.global_rows));
  ops.router_backward(pass.queue, dlogits_TE, dweight_TA, saved.expert_TA, saved.weight_TA,
                      saved.probs_TE, saved.lse_T, saved.prob_gradient_SE, 0,
                      tokens_per_scope(pass, config_.load_balancing_scope), balance_scale, z_scale,
                      normalize_);
  ops.matmul_tn_add(pass.queue, weight_.gradient(), dlogits_TE, saved.input_TD);
  ops.matmul_nn(pass.queue, dx_TD, dlogits_TE, weight_.weight);
  if (const double eps = input_jitter(pass); eps > 0)
    ops.jitter(pass.queue, dx_TD, dx_TD, eps, jitter_key_,
               static_cast<uint64_t>(pass.random_stream), pass.batch.first_row);
  return dx_TD;
}

void Router::choose_experts(Pass& pass, Tensor logits_TE, Saved& saved) const {
  const DType real = logits_TE.dtype();
  const int64_t T = logits_TE.dim(0), A = config_.top_k;
  saved.probs_TE = pass.activations.allocate_like(logits_TE);
  saved.lse_T = pass.activations.allocate(real, {T});
  saved.expert_TA = pass.activations.allocate(DType::kI32, {T, A});
  saved.score_TA = pass.activations.allocate(real, {T, A});
  saved.weight_TA = pass.activations.allocate(real, {T, A});
  const bool experts_are_given = use_given_experts(pass, saved);
  backend_.ops().router_forward(
      pass.queue, saved.probs_TE, saved.lse_T, saved.expert_TA, saved.score_TA, saved.weight_TA,
      pass.statistics.z_sum.rows(moe_index_, 1), logits_TE, normalize_, experts_are_given);
}

void Router::add_balance_loss(Pass& pass, Saved& saved) const {
  Ops& ops = backend_.ops();
  const BalanceScope scope = config_.load_balancing_scope;
  const int64_t S = num_local_scopes(pass, scope), E = config_.num_experts;
  saved.prob_gradient_SE = pass.activations.allocate(DType::kF64, {S, E});
  Arena::Scope temporaries(pass.scratch);
  // Counts and probability mass stand together, so that one all-reduce carries both.
  Tensor both = pass.scratch.allocate(DType::kF64, {2 * S, E});
  Tensor count_SE = both.rows(0, S), prob_sum_SE = both.rows(S, S);
  ops.router_statistics(pass.queue, count_SE, prob_sum_SE, saved.expert_TA, saved.probs_TE, 0,
                        tokens_per_scope(pass, scope));
  if (scope == BalanceScope::kMicroBatch)
    backend_.wait(pass.queue, stage_.all_reduce_sum(both, backend_.record(pass.queue)));
  ops.balance_loss(pass.queue, pass.statistics.balance_sum.rows(moe_index_, 1),
                   saved.prob_gradient_SE, count_SE, prob_sum_SE, tokens_per_scope(pass, scope),
                   config_.top_k);
}

void Router::drop_tokens(Pass& pass, Saved& saved) const {
  Ops& ops = backend_.ops();
  saved.kept_TA = pass.activations.allocate_like(saved.expert_TA);
  if (pass.routing != nullptr && pass.routing->replaying()) {
    const auto& kept = pass.routing->at(pass.random_stream, moe_index_).kept;
    backend_.upload(pass.queue, saved.kept_TA, kept.data() + pass.batch.first_row * config_.top_k);
    return;
  }
  const std::optional<double> factor = capacity_factor(pass);
  if (!factor) {
    ops.copy(pass.queue, saved.kept_TA, saved.expert_TA);
    return;
  }
  const auto choices =
      static_cast<double>(config_.top_k * tokens_per_scope(pass, config_.capacity_scope));
  const auto capacity =
      std::max(config_.min_capacity,
               static_cast<int64_t>(std::ceil(*factor * choices / config_.num_experts)));
  if (config_.capacity_scope == BalanceScope::kMicroBatch) {
    Arena::Scope scope(pass.scratch);
    ops.copy(pass.queue, saved.kept_TA, drop_in_global_micro_batch(pass, saved, capacity));
  } else {
    ops.drop_tokens(pass.queue, saved.kept_TA, saved.expert_TA, saved.score_TA, config_.num_experts,
                    pass.batch.num_sequences, capacity, order_of(config_));
  }
}

// Every rank sees all choices of the global micro-batch, decides for all, and keeps its own rows.
// The rows of the stage's ranks, in rank order, are the rows of the global micro-batch.
Tensor Router::drop_in_global_micro_batch(Pass& pass, const Saved& saved, int64_t capacity) const {
  Arena& scratch = pass.scratch;
  const int64_t rows = pass.batch.global_rows, A = config_.top_k;
  Tensor expert = scratch.allocate(DType::kI32, {rows, A});
  Tensor score = scratch.allocate(saved.score_TA.dtype(), {rows, A});
  const Event ready = backend_.record(pass.queue);
  backend_.wait(pass.queue, stage_.all_gather(expert, saved.expert_TA, ready));
  backend_.wait(pass.queue, stage_.all_gather(score, saved.score_TA, ready));
  Tensor kept = scratch.allocate_like(expert);
  backend_.ops().drop_tokens(pass.queue, kept, expert, score, config_.num_experts, 1, capacity,
                             order_of(config_));
  return kept.rows(pass.batch.first_row, saved.expert_TA.dim(0));
}

bool Router::use_given_experts(Pass& pass, Saved& saved) const {
  if (pass.routing != nullptr && pass.routing->replaying()) {
    const auto& expert = pass.routing->at(pass.random_stream, moe_index_).expert;
    backend_.upload(pass.queue, saved.expert_TA,
                    expert.data() + pass.batch.first_row * config_.top_k);
    return true;
  }
  if (config_.force_balanced)
    backend_.ops().balanced_choice(pass.queue, saved.expert_TA, pass.batch.first_row,
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

int64_t Router::num_local_scopes(const Pass& pass, BalanceScope scope) const {
  return scope == BalanceScope::kSequence ? pass.batch.num_sequences : 1;
}

int64_t Router::tokens_per_scope(const Pass& pass, BalanceScope scope) const {
  return scope == BalanceScope::kSequence ? pass.batch.sequence_length : pass.batch.global_rows;
}

}  // namespace switchyard
