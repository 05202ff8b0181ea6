// The contracts of Mixture-of-Experts: router and dispatch (ops.h). All others are in ops.cpp.
#include <algorithm>

#include "backend/contract.h"
#include "backend/ops.h"
#include "core/math.h"

namespace switchyard {
namespace {

constexpr int64_t kRowAlignment = 16;  // bytes: rows of f64 and vector loads stay aligned

// Rows [first_row, first_row + T) of scopes of `rows_per_scope` rows each.
void check_scopes(const Contract& contract, int64_t T, int64_t S, int64_t first_row,
                  int64_t rows_per_scope) {
  contract.check_that(first_row >= 0 && rows_per_scope > 0,
                      "first_row and rows_per_scope out of range", first_row, rows_per_scope);
  contract.check_that(first_row + T <= S * rows_per_scope,
                      "the rows must lie inside the scopes (last row, rows of all scopes)",
                      first_row + T, S * rows_per_scope);
}

void check_groups(const Contract& contract, const RouterRule& rule, int64_t E, int64_t A) {
  if (rule.num_groups == 1) return;
  contract.check_that(
      rule.num_groups > 1 && E % rule.num_groups == 0 && E / rule.num_groups >= 2,
      "groups must cut the experts into equal parts of two or more (experts, groups)", E,
      rule.num_groups);
  contract.check_that(rule.top_groups >= 1 && rule.top_groups <= rule.num_groups,
                      "top_groups out of range", rule.top_groups, rule.num_groups);
  contract.check_that(A <= rule.top_groups * (E / rule.num_groups),
                      "a token cannot choose more experts than its groups have", A,
                      rule.top_groups * (E / rule.num_groups));
}

}  // namespace

int64_t row_gate_offset(int64_t model_width, DType real) {
  return round_up(model_width * static_cast<int64_t>(size_in_bytes(real)),
                  static_cast<int64_t>(size_in_bytes(accumulator_of(real))));
}

int64_t dispatch_row_bytes(int64_t model_width, int64_t top_k, DType real) {
  const auto choice_bytes =
      static_cast<int64_t>(size_in_bytes(accumulator_of(real)) + sizeof(int32_t));
  return round_up(row_gate_offset(model_width, real) + top_k * choice_bytes, kRowAlignment);
}

int64_t gradient_row_bytes(int64_t model_width, int64_t top_k, DType real) {
  const auto gate_bytes = static_cast<int64_t>(size_in_bytes(accumulator_of(real)));
  return round_up(row_gate_offset(model_width, real) + top_k * gate_bytes, kRowAlignment);
}

// ---- Router ----

void Ops::router_forward(Queue q, Tensor probs_TE, Tensor lse_T, Tensor expert_TA, Tensor score_TA,
                         Tensor weight_TA, Tensor z_sum, Tensor entropy_sum, Tensor logits_TE,
                         Tensor bias_E, const RouterRule& rule, bool expert_is_given) {
  const Contract contract(__func__);
  const DType real = contract.accumulator("logits", logits_TE);
  const auto [T, E] = contract.dims<2>("logits", logits_TE);
  const auto [expert_rows, A] = contract.dims<2>("expert", expert_TA);
  contract.check_that(A <= E, "a token cannot choose more experts than there are", A, E);
  contract.check("probs", probs_TE, real, {T, E});
  contract.check("lse", lse_T, real, {T});
  contract.check("expert", expert_TA, DType::kI32, {T, A});
  contract.check("score", score_TA, real, {T, A});
  contract.check("weight", weight_TA, real, {T, A});
  contract.check("z_sum", z_sum, DType::kF64, {1});
  contract.check("entropy_sum", entropy_sum, DType::kF64, {1});
  if (!bias_E.is_none()) contract.check("bias", bias_E, DType::kF64, {E});
  check_groups(contract, rule, E, A);
  do_router_forward(q, probs_TE, lse_T, expert_TA, score_TA, weight_TA, z_sum, entropy_sum,
                    logits_TE, bias_E, rule, expert_is_given);
}

void Ops::router_statistics(Queue q, Tensor count_SE, Tensor prob_sum_SE, Tensor expert_TA,
                            Tensor probs_TE, RouterScore score, int64_t first_row,
                            int64_t rows_per_scope) {
  const Contract contract(__func__);
  contract.accumulator("probs", probs_TE);
  const auto [T, E] = contract.dims<2>("probs", probs_TE);
  const auto [S, count_width] = contract.dims<2>("count", count_SE);
  const auto [expert_rows, A] = contract.dims<2>("expert", expert_TA);
  contract.check("count", count_SE, DType::kF64, {S, E});
  contract.check("prob_sum", prob_sum_SE, DType::kF64, {S, E});
  contract.check("expert", expert_TA, DType::kI32, {T, A});
  check_scopes(contract, T, S, first_row, rows_per_scope);
  do_router_statistics(q, count_SE, prob_sum_SE, expert_TA, probs_TE, score, first_row,
                       rows_per_scope);
}

void Ops::balance_loss(Queue q, Tensor loss_sum, Tensor prob_gradient_SE, Tensor count_SE,
                       Tensor prob_sum_SE, int64_t tokens_per_scope, int64_t counted_tokens,
                       int64_t top_k) {
  const Contract contract(__func__);
  const auto [S, E] = contract.dims<2>("count", count_SE);
  contract.check("loss_sum", loss_sum, DType::kF64, {1});
  contract.check("prob_gradient", prob_gradient_SE, DType::kF64, {S, E});
  contract.check("count", count_SE, DType::kF64, {S, E});
  contract.check("prob_sum", prob_sum_SE, DType::kF64, {S, E});
  contract.check_that(tokens_per_scope > 0 && top_k > 0,
                      "tokens_per_scope and top_k must be positive", tokens_per_scope, top_k);
  contract.check_that(counted_tokens >= tokens_per_scope,
                      "the counts must cover the scope (counted_tokens, tokens_per_scope)",
                      counted_tokens, tokens_per_scope);
  do_balance_loss(q, loss_sum, prob_gradient_SE, count_SE, prob_sum_SE, tokens_per_scope,
                  counted_tokens, top_k);
}

void Ops::router_backward(Queue q, Tensor dlogits_TE, Tensor dweight_TA, Tensor expert_TA,
                          Tensor weight_TA, Tensor probs_TE, Tensor lse_T, Tensor logits_TE,
                          Tensor prob_gradient_SE, const RouterRule& rule, int64_t first_row,
                          int64_t rows_per_scope, double balance_scale, double z_scale) {
  const Contract contract(__func__);
  const DType real = contract.accumulator("probs", probs_TE);
  const auto [T, E] = contract.dims<2>("probs", probs_TE);
  const auto [expert_rows, A] = contract.dims<2>("expert", expert_TA);
  const auto [S, gradient_width] = contract.dims<2>("prob_gradient", prob_gradient_SE);
  contract.check("dlogits", dlogits_TE, real, {T, E});
  contract.check("dweight", dweight_TA, real, {T, A});
  contract.check("expert", expert_TA, DType::kI32, {T, A});
  contract.check("weight", weight_TA, real, {T, A});
  contract.check("lse", lse_T, real, {T});
  if (rule.score == RouterScore::kSigmoid) contract.check("logits", logits_TE, real, {T, E});
  contract.check("prob_gradient", prob_gradient_SE, DType::kF64, {S, E});
  check_scopes(contract, T, S, first_row, rows_per_scope);
  do_router_backward(q, dlogits_TE, dweight_TA, expert_TA, weight_TA, probs_TE, lse_T, logits_TE,
                     prob_gradient_SE, rule, first_row, rows_per_scope, balance_scale, z_scale);
}

void Ops::sinkhorn_costs(Queue q, Tensor cost_TE, Tensor logits_TE) {
  const Contract contract(__func__);
  contract.accumulator("logits", logits_TE);
  const auto [T, E] = contract.dims<2>("logits", logits_TE);
  contract.check("cost", cost_TE, DType::kF64, {T, E});
  do_sinkhorn_costs(q, cost_TE, logits_TE);
}

void Ops::sinkhorn_sums(Queue q, Tensor sum_SE, Tensor factor_SE, Tensor cost_TE, int64_t first_row,
                        int64_t rows_per_scope) {
  const Contract contract(__func__);
  const auto [T, E] = contract.dims<2>("cost", cost_TE);
  const auto [S, sum_width] = contract.dims<2>("sum", sum_SE);
  contract.check("cost", cost_TE, DType::kF64, {T, E});
  contract.check("sum", sum_SE, DType::kF64, {S, E});
  contract.check("factor", factor_SE, DType::kF64, {S, E});
  check_scopes(contract, T, S, first_row, rows_per_scope);
  do_sinkhorn_sums(q, sum_SE, factor_SE, cost_TE, first_row, rows_per_scope);
}

void Ops::sinkhorn_factors(Queue q, Tensor factor_SE, Tensor sum_SE) {
  const Contract contract(__func__);
  const auto [S, E] = contract.dims<2>("sum", sum_SE);
  contract.check("sum", sum_SE, DType::kF64, {S, E});
  contract.check("factor", factor_SE, DType::kF64, {S, E});
  do_sinkhorn_factors(q, factor_SE, sum_SE);
}

void Ops::sinkhorn_choice(Queue q, Tensor expert_TA, Tensor factor_SE, Tensor cost_TE,
                          int64_t first_row, int64_t rows_per_scope) {
  const Contract contract(__func__);
  const auto [T, E] = contract.dims<2>("cost", cost_TE);
  const auto [S, factor_width] = contract.dims<2>("factor", factor_SE);
  const auto [expert_rows, A] = contract.dims<2>("expert", expert_TA);
  contract.check("cost", cost_TE, DType::kF64, {T, E});
  contract.check("expert", expert_TA, DType::kI32, {T, A});
  contract.check("factor", factor_SE, DType::kF64, {S, E});
  contract.check_that(A <= E, "a token cannot choose more experts than there are", A, E);
  check_scopes(contract, T, S, first_row, rows_per_scope);
  do_sinkhorn_choice(q, expert_TA, factor_SE, cost_TE, first_row, rows_per_scope);
}

void Ops::update_router_bias(Queue q, Tensor bias_E, Tensor count_E1, Tensor scalars, double rate) {
  const Contract contract(__func__);
  const auto [E] = contract.dims<1>("bias", bias_E);
  contract.check("bias", bias_E, DType::kF64, {E});
  contract.check("count", count_E1, DType::kF64, {E + 1});
  contract.check("scalars", scalars, DType::kF64, {kNumStepScalars});
  do_update_router_bias(q, bias_E, count_E1, scalars, rate);
}

void Ops::balanced_choice(Queue q, Tensor expert_TA, int64_t first_token, int64_t num_experts) {
  const Contract contract(__func__);
  const auto [T, A] = contract.dims<2>("expert", expert_TA);
  contract.check("expert", expert_TA, DType::kI32, {T, A});
  contract.check_that(A <= num_experts, "a token cannot choose more experts than there are", A,
                      num_experts);
  do_balanced_choice(q, expert_TA, first_token, num_experts);
}

void Ops::jitter(Queue q, Tensor y_TD, Tensor x_TD, double eps, uint64_t key, uint64_t stream,
                 int64_t first_row) {
  const Contract contract(__func__);
  const auto [T, D] = contract.dims<2>("x", x_TD);
  contract.check("y", y_TD, contract.real("x", x_TD), {T, D});
  do_jitter(q, y_TD, x_TD, eps, key, stream, first_row);
}

void Ops::drop_tokens(Queue q, Tensor kept_TA, Tensor expert_TA, Tensor score_TA,
                      int64_t num_experts, int64_t num_scopes, int64_t capacity, DropOrder order) {
  const Contract contract(__func__);
  const auto [T, A] = contract.dims<2>("expert", expert_TA);
  contract.check("expert", expert_TA, DType::kI32, {T, A});
  contract.check("kept", kept_TA, DType::kI32, {T, A});
  contract.check("score", score_TA, contract.accumulator("score", score_TA), {T, A});
  contract.check_that(num_scopes > 0 && T % num_scopes == 0, "scopes must divide the tokens",
                      num_scopes, T);
  contract.check_that(num_experts > 0 && capacity >= 0, "num_experts or capacity out of range",
                      num_experts, capacity);
  do_drop_tokens(q, kept_TA, expert_TA, score_TA, num_experts, num_scopes, capacity, order);
}

void Ops::expert_load(Queue q, Tensor count_E1, Tensor kept_TA) {
  const Contract contract(__func__);
  const auto [T, A] = contract.dims<2>("kept", kept_TA);
  const auto [bins] = contract.dims<1>("count", count_E1);
  contract.check("kept", kept_TA, DType::kI32, {T, A});
  contract.check("count", count_E1, DType::kF64, {bins});
  do_expert_load(q, count_E1, kept_TA);
}

// ---- Dispatch ----

void Ops::plan_send(Queue q, Tensor send_row_TP, Tensor send_token, Tensor counts_2P,
                    Tensor kept_TA, int64_t experts_per_peer) {
  const Contract contract(__func__);
  const auto [T, A] = contract.dims<2>("kept", kept_TA);
  const auto [send_rows, P] = contract.dims<2>("send_row", send_row_TP);
  contract.check("kept", kept_TA, DType::kI32, {T, A});
  contract.check("send_row", send_row_TP, DType::kI32, {T, P});
  contract.check("send_token", send_token, DType::kI32, {T * std::min(A, P)});
  contract.check("counts", counts_2P, DType::kI32, {2, P});
  contract.check_that(experts_per_peer > 0, "experts_per_peer must be positive", experts_per_peer,
                      P);
  do_plan_send(q, send_row_TP, send_token, counts_2P, kept_TA, experts_per_peer);
}

void Ops::pack_rows(Queue q, Tensor rows_NB, Tensor x_TD, Tensor weight_TA, Tensor kept_TA,
                    Tensor send_token_N, Tensor send_row_TP, int64_t experts_per_peer) {
  const Contract contract(__func__);
  const DType real = contract.real("x", x_TD);
  const auto [T, D] = contract.dims<2>("x", x_TD);
  const auto [kept_rows, A] = contract.dims<2>("kept", kept_TA);
  const auto [N] = contract.dims<1>("send_token", send_token_N);
  const auto [send_rows, P] = contract.dims<2>("send_row", send_row_TP);
  contract.check("rows", rows_NB, DType::kU8, {N, dispatch_row_bytes(D, A, real)});
  contract.check("weight", weight_TA, accumulator_of(real), {T, A});
  contract.check("kept", kept_TA, DType::kI32, {T, A});
  contract.check("send_token", send_token_N, DType::kI32, {N});
  contract.check("send_row", send_row_TP, DType::kI32, {T, P});
  contract.check_that(experts_per_peer > 0, "experts_per_peer must be positive", experts_per_peer,
                      P);
  do_pack_rows(q, rows_NB, x_TD, weight_TA, kept_TA, send_token_N, send_row_TP, experts_per_peer);
}

void Ops::plan_receive(Queue q, Tensor begin_L1, Tensor source_row_R, Tensor gate_R,
                       Tensor row_of_choice_NA, Tensor rows_NB, int64_t model_width, DType real) {
  const Contract contract(__func__);
  const auto [bounds] = contract.dims<1>("begin", begin_L1);
  const auto [R] = contract.dims<1>("gate", gate_R);
  const auto [N, A] = contract.dims<2>("row_of_choice", row_of_choice_NA);
  contract.check("begin", begin_L1, DType::kI32, {bounds});
  contract.check("gate", gate_R, accumulator_of(real), {R});
  contract.check("source_row", source_row_R, DType::kI32, {R});
  contract.check("row_of_choice", row_of_choice_NA, DType::kI32, {N, A});
  contract.check("rows", rows_NB, DType::kU8, {N, dispatch_row_bytes(model_width, A, real)});
  contract.check_that(bounds > 0, "begin holds at least the end of no expert", bounds, R);
  do_plan_receive(q, begin_L1, source_row_R, gate_R, row_of_choice_NA, rows_NB, model_width, real);
}

void Ops::unpack_rows(Queue q, Tensor x_RD, Tensor rows_NB, Tensor source_row_R) {
  const Contract contract(__func__);
  const DType real = contract.real("x", x_RD);
  const auto [R, D] = contract.dims<2>("x", x_RD);
  const auto [N, row_bytes] = contract.dims<2>("rows", rows_NB);
  contract.check("rows", rows_NB, DType::kU8, {N, row_bytes});
  contract.check("source_row", source_row_R, DType::kI32, {R});
  contract.check_that(row_bytes >= D * static_cast<int64_t>(size_in_bytes(real)),
                      "the bytes of a row must hold a hidden state", row_bytes, D);
  do_unpack_rows(q, x_RD, rows_NB, source_row_R);
}

void Ops::combine_rows(Queue q, Tensor out_ND, Tensor in_RD, Tensor index_NJ) {
  const Contract contract(__func__);
  const DType real = contract.real("in", in_RD);
  const auto [R, D] = contract.dims<2>("in", in_RD);
  const auto [N, J] = contract.dims<2>("index", index_NJ);
  contract.check("index", index_NJ, DType::kI32, {N, J});
  contract.check("out", out_ND, real, {N, D});
  do_combine_rows(q, out_ND, in_RD, index_NJ);
}

void Ops::gather_rows(Queue q, Tensor out_RD, Tensor in_ND, Tensor index_R) {
  const Contract contract(__func__);
  const DType real = contract.real("in", in_ND);
  const auto [N, D] = contract.dims<2>("in", in_ND);
  const auto [R] = contract.dims<1>("index", index_R);
  contract.check("index", index_R, DType::kI32, {R});
  contract.check("out", out_RD, real, {R, D});
  do_gather_rows(q, out_RD, in_ND, index_R);
}

void Ops::gather_slots(Queue q, Tensor slots_NA, Tensor value_R, Tensor index_NA) {
  const Contract contract(__func__);
  const auto [N, A] = contract.dims<2>("index", index_NA);
  const auto [R] = contract.dims<1>("value", value_R);
  const DType real = contract.accumulator("value", value_R);
  contract.check("value", value_R, real, {R});
  contract.check("index", index_NA, DType::kI32, {N, A});
  contract.check("slots", slots_NA, real, {N, A});
  do_gather_slots(q, slots_NA, value_R, index_NA);
}

void Ops::pack_row_gradients(Queue q, Tensor rows_NB, Tensor dx_ND, Tensor dgate_NA) {
  const Contract contract(__func__);
  const DType real = contract.real("dx", dx_ND);
  const auto [N, D] = contract.dims<2>("dx", dx_ND);
  const auto [gate_rows, A] = contract.dims<2>("dgate", dgate_NA);
  contract.check("rows", rows_NB, DType::kU8, {N, gradient_row_bytes(D, A, real)});
  contract.check("dgate", dgate_NA, accumulator_of(real), {N, A});
  do_pack_row_gradients(q, rows_NB, dx_ND, dgate_NA);
}

void Ops::unpack_row_gradients(Queue q, Tensor dx_TD, Tensor dweight_TA, Tensor rows_NB,
                               Tensor send_row_TP, Tensor kept_TA, int64_t experts_per_peer) {
  const Contract contract(__func__);
  const DType real = contract.real("dx", dx_TD);
  const auto [T, D] = contract.dims<2>("dx", dx_TD);
  const auto [kept_rows, A] = contract.dims<2>("kept", kept_TA);
  const auto [send_rows, P] = contract.dims<2>("send_row", send_row_TP);
  const auto [N, row_bytes] = contract.dims<2>("rows", rows_NB);
  contract.check("dweight", dweight_TA, accumulator_of(real), {T, A});
  contract.check("rows", rows_NB, DType::kU8, {N, gradient_row_bytes(D, A, real)});
  contract.check("send_row", send_row_TP, DType::kI32, {T, P});
  contract.check("kept", kept_TA, DType::kI32, {T, A});
  contract.check_that(experts_per_peer > 0, "experts_per_peer must be positive", experts_per_peer,
                      P);
  do_unpack_row_gradients(q, dx_TD, dweight_TA, rows_NB, send_row_TP, kept_TA, experts_per_peer);
}

}  // namespace switchyard
