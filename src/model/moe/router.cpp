#include "model/moe/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/ops.h"
#include "core/math.h"
#include "core/random.h"
#include "model/moe/routing_log.h"
#include "model/weight_gradients.h"

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

Router::Router(Backend& backend, const TensorParallel& tp, Communicator& stage,
               const std::string& name, const RunConfig& config, int moe_index)
    : backend_(backend),
      tp_(tp),
      stage_(stage),
      config_(config.moe),
      normalize_(config.moe.norm_topk_prob && config.moe.top_k > 1),
      moe_index_(moe_index),
      jitter_key_(random_key(config.training.seed, name + ".jitter")),
      weight_(
          dense_parameter(name + ".weight", {config.moe.num_experts, config.model.hidden_size})) {
  weight_.weight_decay = false;
  tp.replicate(weight_, TensorParallel::Sees::kOwnRows);
}

void Router::forward(Pass& pass, Tensor x_TD, Saved& saved) const {
  Ops& ops = backend_.ops();
  saved.input_TD = x_TD;
  if (const double eps = input_jitter(pass); eps > 0) {
    saved.input_TD = pass.activations.allocate_like(x_TD);
    ops.jitter(pass.queue, saved.input_TD, x_TD, eps, jitter_key_,
               static_cast<uint64_t>(pass.random_stream), first_row(pass));
  }
  Arena::Scope scope(pass.scratch);
  Tensor logits_TE =
      pass.scratch.allocate(accumulator_of(x_TD.dtype()), {x_TD.dim(0), config_.num_experts});
  ops.matmul_nt(pass.queue, logits_TE, saved.input_TD, weight_.weight);
  choose_experts(pass, logits_TE, saved);
  if (pass.recomputing) return;  // losses, drops and statistics are those of the first time
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
  const ScopeGroup group = group_of(pass, config_.load_balancing_scope);
  const int64_t scopes_of_micro_batch = div_exact(pass.batch.global_rows, group.rows_per_scope);
  const double balance_scale = config_.load_balancing_loss_coef /
                               (num_micro_batches * static_cast<double>(scopes_of_micro_batch));
  const double z_scale =
      config_.z_loss_coef / (num_micro_batches * static_cast<double>(pass.batch.global_rows));
  ops.router_backward(pass.queue, dlogits_TE, dweight_TA, saved.expert_TA, saved.weight_TA,
                      saved.probs_TE, saved.lse_T, saved.prob_gradient_SE, group.first_row,
                      group.rows_per_scope, balance_scale, z_scale, normalize_);
  add_matmul_gradient(backend_, pass, weight_, dlogits_TE, saved.input_TD);
  ops.matmul_nn(pass.queue, dx_TD, dlogits_TE, weight_.weight);
  if (const double eps = input_jitter(pass); eps > 0)
    ops.jitter(pass.queue, dx_TD, dx_TD, eps, jitter_key_,
               static_cast<uint64_t>(pass.random_stream), first_row(pass));
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
  Arena::Scope scope(pass.scratch);
  Tensor z_sum = pass.recomputing ? pass.scratch.allocate(DType::kF64, {1})
                                  : pass.statistics.z_sum.rows(moe_index_, 1);
  if (pass.recomputing) backend_.ops().fill(pass.queue, z_sum, 0.0);
  backend_.ops().router_forward(pass.queue, saved.probs_TE, saved.lse_T, saved.expert_TA,
                                saved.score_TA, saved.weight_TA, z_sum, logits_TE, normalize_,
                                experts_are_given);
}

void Router::add_balance_loss(Pass& pass, Saved& saved) const {
  Ops& ops = backend_.ops();
  const ScopeGroup group = group_of(pass, config_.load_balancing_scope);
  const int64_t S = group.num_scopes, E = config_.num_experts;
  saved.prob_gradient_SE = pass.kept.allocate(DType::kF64, {S, E});
  Arena::Scope temporaries(pass.scratch);
  // Counts and probability mass stand together, so that one all-reduce carries both.
  Tensor both = pass.scratch.allocate(DType::kF64, {2 * S, E});
  Tensor count_SE = both.rows(0, S), prob_sum_SE = both.rows(S, S);
  ops.router_statistics(pass.queue, count_SE, prob_sum_SE, saved.expert_TA, saved.probs_TE,
                        group.first_row, group.rows_per_scope);
  backend_.wait(pass.queue, group.ranks.all_reduce_sum(both, backend_.record(pass.queue)));
  // All ranks of the group know the loss; the first one reports it.
  Tensor loss_sum = pass.scratch.allocate(DType::kF64, {1});
  ops.fill(pass.queue, loss_sum, 0.0);
  ops.balance_loss(pass.queue, loss_sum, saved.prob_gradient_SE, count_SE, prob_sum_SE,
                   group.rows_per_scope, config_.top_k);
  const Tensor total = pass.statistics.balance_sum.rows(moe_index_, 1);
  if (group.ranks.rank() == 0) ops.add(pass.queue, total, total, loss_sum);
}

void Router::drop_tokens(Pass& pass, Saved& saved) const {
  Ops& ops = backend_.ops();
  saved.kept_TA = pass.kept.allocate(DType::kI32, saved.expert_TA.shape());
  if (pass.routing != nullptr && pass.routing->replaying()) {
    const auto& kept = pass.routing->at(pass.random_stream, moe_index_).kept;
    backend_.upload(pass.queue, saved.kept_TA, kept.data() + first_row(pass) * config_.top_k);
    return;
  }
  const std::optional<double> factor = capacity_factor(pass);
  if (!factor) {
    ops.copy(pass.queue, saved.kept_TA, saved.expert_TA);
    return;
  }
  // Every rank of the group sees all choices of its scopes, decides for all, and keeps its own
  // rows.
  const ScopeGroup group = group_of(pass, config_.capacity_scope);
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

Router::ScopeGroup Router::group_of(const Pass& pass, BalanceScope scope) const {
  const MicroBatch& batch = pass.batch;
  const std::vector<int64_t> slices = tp_.rows_of_ranks(batch.num_tokens());
  if (scope == BalanceScope::kSequence)
    return {tp_.communicator(), slices, tp_.my_rows(batch.num_tokens()).begin, batch.num_sequences,
            batch.sequence_length};
  // The rows of the stage's ranks, in rank order, are the rows of the global micro-batch.
  std::vector<int64_t> rows;
  while (rows.size() < static_cast<size_t>(stage_.size()))
    rows.insert(rows.end(), slices.begin(), slices.end());
  return {stage_, rows, first_row(pass), 1, batch.global_rows};
}

bool Router::use_given_experts(Pass& pass, Saved& saved) const {
  if (pass.routing != nullptr && pass.routing->replaying()) {
    const auto& expert = pass.routing->at(pass.random_stream, moe_index_).expert;
    backend_.upload(pass.queue, saved.expert_TA, expert.data() + first_row(pass) * config_.top_k);
    return true;
  }
  if (config_.force_balanced)
    backend_.ops().balanced_choice(pass.queue, saved.expert_TA, first_row(pass),
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

int64_t Router::first_row(const Pass& pass) const {
  return pass.batch.first_row + tp_.my_rows(pass.batch.num_tokens()).begin;
}

}  // namespace switchyard
