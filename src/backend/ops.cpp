#include "backend/ops.h"

#include <algorithm>

#include "backend/contract.h"
#include "core/math.h"

namespace switchyard {
namespace {

constexpr int64_t kRowAlignment = 16;  // bytes: rows of f64 and vector loads stay aligned

// y (T, N) and x (T, K) against one weight w (N, K).
void check_matmul(const Contract& contract, Tensor y, Tensor x, Tensor w) {
  const DType accumulator = accumulator_of(contract.real("w", w));
  const auto [N, K] = contract.dims<2>("w", w);
  const int64_t T = contract.dims<2>("x", x)[0];
  contract.check_mixed("x", x, accumulator, {T, K});
  contract.check_mixed("y", y, accumulator, {T, N});
}

// y (R, N) and x (R, K) against one weight per expert, w (L, N, K).
void check_grouped_matmul(const Contract& contract, Tensor y, Tensor x, Tensor w, Tensor begin) {
  const DType accumulator = accumulator_of(contract.real("w", w));
  const auto [L, N, K] = contract.dims<3>("w", w);
  const int64_t R = contract.dims<2>("x", x)[0];
  contract.check_mixed("x", x, accumulator, {R, K});
  contract.check_mixed("y", y, accumulator, {R, N});
  contract.check("begin", begin, DType::kI32, {L + 1});
}

void check_rope(const Contract& contract, Tensor x, Tensor position, int64_t head_dim) {
  contract.real("x", x);
  const auto [T, width] = contract.dims<2>("x", x);
  contract.check("position", position, DType::kI32, {T});
  contract.check_that(head_dim > 0 && head_dim % 2 == 0 && width % head_dim == 0,
                      "the width of x must be heads of an even head_dim", width, head_dim);
}

void check_attention(const Contract& contract, Tensor query, Tensor key, Tensor value,
                     Tensor log_sum_exp, Tensor first_visible, int64_t head_dim,
                     int64_t sequence_length) {
  const DType real = contract.real("query", query);
  const auto [T, query_width] = contract.dims<2>("query", query);
  const auto [key_rows, key_width] = contract.dims<2>("key", key);
  contract.check_that(key_rows == T, "key and query must have as many rows", key_rows, T);
  contract.check_that(head_dim > 0 && query_width % head_dim == 0,
                      "the width of query must be heads of head_dim", query_width, head_dim);
  contract.check_that(key_width > 0 && key_width % head_dim == 0 && query_width % key_width == 0,
                      "query heads must be a multiple of key heads (widths)", query_width,
                      key_width);
  contract.check_that(sequence_length > 0 && T % sequence_length == 0,
                      "rows must be whole sequences of sequence_length", T, sequence_length);
  contract.check("key", key, real, {T, key_width});
  contract.check("value", value, real, {T, key_width});
  contract.check("log_sum_exp", log_sum_exp, accumulator_of(real), {T, query_width / head_dim});
  contract.check("first_visible", first_visible, DType::kI32, {T});
}

void check_activation(const Contract& contract, Tensor gate, Tensor up, Tensor weight,
                      Activation activation) {
  const DType real = contract.real("gate", gate);
  const auto [R, F] = contract.dims<2>("gate", gate);
  const bool has_up = !up.is_none();
  SY_CHECK(has_up == (activation == Activation::kSwiGLU),
           "SwiGLU has an `up` operand, ReLU and GELU have none; up is {}", up.shape_string());
  if (has_up) contract.check("up", up, real, {R, F});
  if (!weight.is_none()) contract.check("weight", weight, accumulator_of(real), {R});
}

// The ids [first_id, first_id + V) of a vocabulary.
void check_vocabulary(const Contract& contract, int64_t V, int64_t first_id, int64_t vocab_size) {
  contract.check_that(first_id >= 0 && first_id + V <= vocab_size,
                      "the slice must lie inside the vocabulary (its end, vocabulary)",
                      first_id + V, vocab_size);
}

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

// ---- Matrix products ----

void Ops::matmul_nt(Queue q, Tensor y_TN, Tensor x_TK, Tensor w_NK) {
  check_matmul(Contract(__func__), y_TN, x_TK, w_NK);
  do_matmul_nt(q, y_TN, x_TK, w_NK);
}

void Ops::matmul_nn(Queue q, Tensor x_TK, Tensor y_TN, Tensor w_NK) {
  check_matmul(Contract(__func__), y_TN, x_TK, w_NK);
  do_matmul_nn(q, x_TK, y_TN, w_NK);
}

void Ops::matmul_nn_add(Queue q, Tensor x_TK, Tensor y_TN, Tensor w_NK) {
  check_matmul(Contract(__func__), y_TN, x_TK, w_NK);
  do_matmul_nn_add(q, x_TK, y_TN, w_NK);
}

void Ops::matmul_tn_add(Queue q, Tensor w_NK, Tensor y_TN, Tensor x_TK) {
  check_matmul(Contract(__func__), y_TN, x_TK, w_NK);
  do_matmul_tn_add(q, w_NK, y_TN, x_TK);
}

void Ops::grouped_matmul_nt(Queue q, Tensor y_RN, Tensor x_RK, Tensor w_LNK, Tensor begin_L1) {
  check_grouped_matmul(Contract(__func__), y_RN, x_RK, w_LNK, begin_L1);
  do_grouped_matmul_nt(q, y_RN, x_RK, w_LNK, begin_L1);
}

void Ops::grouped_matmul_nn(Queue q, Tensor x_RK, Tensor y_RN, Tensor w_LNK, Tensor begin_L1) {
  check_grouped_matmul(Contract(__func__), y_RN, x_RK, w_LNK, begin_L1);
  do_grouped_matmul_nn(q, x_RK, y_RN, w_LNK, begin_L1);
}

void Ops::grouped_matmul_nn_add(Queue q, Tensor x_RK, Tensor y_RN, Tensor w_LNK, Tensor begin_L1) {
  check_grouped_matmul(Contract(__func__), y_RN, x_RK, w_LNK, begin_L1);
  do_grouped_matmul_nn_add(q, x_RK, y_RN, w_LNK, begin_L1);
}

void Ops::grouped_matmul_tn_add(Queue q, Tensor w_LNK, Tensor y_RN, Tensor x_RK, Tensor begin_L1) {
  check_grouped_matmul(Contract(__func__), y_RN, x_RK, w_LNK, begin_L1);
  do_grouped_matmul_tn_add(q, w_LNK, y_RN, x_RK, begin_L1);
}

// ---- Embedding ----

void Ops::embedding_forward(Queue q, Tensor y_TD, Tensor table_VD, Tensor ids_T, int64_t first_id,
                            int64_t vocab_size) {
  const Contract contract(__func__);
  const auto [V, D] = contract.dims<2>("table", table_VD);
  const auto [T] = contract.dims<1>("ids", ids_T);
  contract.check("ids", ids_T, DType::kI32, {T});
  contract.check("y", y_TD, contract.real("table", table_VD), {T, D});
  check_vocabulary(contract, V, first_id, vocab_size);
  do_embedding_forward(q, y_TD, table_VD, ids_T, first_id, vocab_size);
}

void Ops::embedding_backward(Queue q, Tensor dtable_VD, Tensor dy_TD, Tensor ids_T,
                             int64_t first_id, int64_t vocab_size) {
  const Contract contract(__func__);
  const auto [V, D] = contract.dims<2>("dtable", dtable_VD);
  const auto [T] = contract.dims<1>("ids", ids_T);
  contract.check("ids", ids_T, DType::kI32, {T});
  const DType real = contract.real("dy", dy_TD);
  contract.check("dy", dy_TD, real, {T, D});
  contract.check("dtable", dtable_VD, accumulator_of(real), {V, D});
  check_vocabulary(contract, V, first_id, vocab_size);
  do_embedding_backward(q, dtable_VD, dy_TD, ids_T, first_id, vocab_size);
}

// ---- RMSNorm ----

void Ops::rmsnorm_forward(Queue q, Tensor y_TD, Tensor sum_TD, Tensor inv_rms_T, Tensor x_TD,
                          Tensor delta_TD, Tensor weight_D, double eps) {
  const Contract contract(__func__);
  const DType real = contract.real("x", x_TD);
  const auto [T, D] = contract.dims<2>("x", x_TD);
  contract.check("y", y_TD, real, {T, D});
  contract.check("inv_rms", inv_rms_T, accumulator_of(real), {T});
  contract.check("weight", weight_D, real, {D});
  contract.check_paired("sum", sum_TD, "delta", delta_TD);
  if (!delta_TD.is_none()) {
    contract.check("sum", sum_TD, real, {T, D});
    contract.check("delta", delta_TD, real, {T, D});
  }
  do_rmsnorm_forward(q, y_TD, sum_TD, inv_rms_T, x_TD, delta_TD, weight_D, eps);
}

void Ops::rmsnorm_backward(Queue q, Tensor dx_TD, Tensor dy_TD, Tensor dresidual_TD, Tensor x_TD,
                           Tensor inv_rms_T, Tensor weight_D) {
  const Contract contract(__func__);
  const DType real = contract.real("x", x_TD);
  const auto [T, D] = contract.dims<2>("x", x_TD);
  contract.check("dx", dx_TD, real, {T, D});
  contract.check("dy", dy_TD, real, {T, D});
  if (!dresidual_TD.is_none()) contract.check("dresidual", dresidual_TD, real, {T, D});
  contract.check("inv_rms", inv_rms_T, accumulator_of(real), {T});
  contract.check("weight", weight_D, real, {D});
  do_rmsnorm_backward(q, dx_TD, dy_TD, dresidual_TD, x_TD, inv_rms_T, weight_D);
}

void Ops::rmsnorm_weight_backward(Queue q, Tensor dweight_D, Tensor dy_TD, Tensor x_TD,
                                  Tensor inv_rms_T) {
  const Contract contract(__func__);
  const DType real = contract.real("x", x_TD);
  const auto [T, D] = contract.dims<2>("x", x_TD);
  contract.check("dweight", dweight_D, accumulator_of(real), {D});
  contract.check("dy", dy_TD, real, {T, D});
  contract.check("inv_rms", inv_rms_T, accumulator_of(real), {T});
  do_rmsnorm_weight_backward(q, dweight_D, dy_TD, x_TD, inv_rms_T);
}

// ---- Attention ----

void Ops::rope_forward(Queue q, Tensor x_THC, Tensor position_T, int64_t head_dim, double theta) {
  check_rope(Contract(__func__), x_THC, position_T, head_dim);
  do_rope_forward(q, x_THC, position_T, head_dim, theta);
}

void Ops::rope_backward(Queue q, Tensor dx_THC, Tensor position_T, int64_t head_dim, double theta) {
  check_rope(Contract(__func__), dx_THC, position_T, head_dim);
  do_rope_backward(q, dx_THC, position_T, head_dim, theta);
}

void Ops::attention_forward(Queue q, Tensor out_THC, Tensor log_sum_exp_TH, Tensor query_THC,
                            Tensor key_TKC, Tensor value_TKC, Tensor first_visible_T,
                            int64_t head_dim, int64_t sequence_length) {
  const Contract contract(__func__);
  check_attention(contract, query_THC, key_TKC, value_TKC, log_sum_exp_TH, first_visible_T,
                  head_dim, sequence_length);
  contract.check("out", out_THC, query_THC.dtype(), {query_THC.dim(0), query_THC.dim(1)});
  do_attention_forward(q, out_THC, log_sum_exp_TH, query_THC, key_TKC, value_TKC, first_visible_T,
                       head_dim, sequence_length);
}

void Ops::attention_backward(Queue q, Tensor dquery_THC, Tensor dkey_TKC, Tensor dvalue_TKC,
                             Tensor dout_THC, Tensor out_THC, Tensor log_sum_exp_TH,
                             Tensor query_THC, Tensor key_TKC, Tensor value_TKC,
                             Tensor first_visible_T, int64_t head_dim, int64_t sequence_length) {
  const Contract contract(__func__);
  check_attention(contract, query_THC, key_TKC, value_TKC, log_sum_exp_TH, first_visible_T,
                  head_dim, sequence_length);
  const DType real = query_THC.dtype();
  const int64_t T = query_THC.dim(0), query_width = query_THC.dim(1), key_width = key_TKC.dim(1);
  contract.check("dquery", dquery_THC, real, {T, query_width});
  contract.check("dkey", dkey_TKC, real, {T, key_width});
  contract.check("dvalue", dvalue_TKC, real, {T, key_width});
  contract.check("dout", dout_THC, real, {T, query_width});
  contract.check("out", out_THC, real, {T, query_width});
  do_attention_backward(q, dquery_THC, dkey_TKC, dvalue_TKC, dout_THC, out_THC, log_sum_exp_TH,
                        query_THC, key_TKC, value_TKC, first_visible_T, head_dim, sequence_length);
}

// ---- Feed-forward activation ----

void Ops::activation_forward(Queue q, Tensor y_RF, Tensor gate_RF, Tensor up_RF, Tensor weight_R,
                             Activation activation) {
  const Contract contract(__func__);
  check_activation(contract, gate_RF, up_RF, weight_R, activation);
  contract.check("y", y_RF, gate_RF.dtype(), {gate_RF.dim(0), gate_RF.dim(1)});
  do_activation_forward(q, y_RF, gate_RF, up_RF, weight_R, activation);
}

void Ops::activation_backward(Queue q, Tensor dgate_RF, Tensor dup_RF, Tensor dweight_R,
                              Tensor dy_RF, Tensor gate_RF, Tensor up_RF, Tensor weight_R,
                              Activation activation) {
  const Contract contract(__func__);
  check_activation(contract, gate_RF, up_RF, weight_R, activation);
  contract.check_paired("dup", dup_RF, "up", up_RF);
  contract.check_paired("dweight", dweight_R, "weight", weight_R);
  const DType real = gate_RF.dtype();
  const int64_t R = gate_RF.dim(0), F = gate_RF.dim(1);
  contract.check("dgate", dgate_RF, real, {R, F});
  contract.check("dy", dy_RF, real, {R, F});
  if (!up_RF.is_none()) contract.check("dup", dup_RF, real, {R, F});
  if (!weight_R.is_none()) contract.check("dweight", dweight_R, accumulator_of(real), {R});
  do_activation_backward(q, dgate_RF, dup_RF, dweight_R, dy_RF, gate_RF, up_RF, weight_R,
                         activation);
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

// ---- Loss ----

void Ops::softmax_statistics(Queue q, Tensor statistics_T3, Tensor logits_TV, Tensor target_T,
                             int64_t first_id, int64_t vocab_size) {
  const Contract contract(__func__);
  contract.accumulator("logits", logits_TV);
  const auto [T, V] = contract.dims<2>("logits", logits_TV);
  contract.check("statistics", statistics_T3, DType::kF64, {T, 3});
  contract.check("target", target_T, DType::kI32, {T});
  check_vocabulary(contract, V, first_id, vocab_size);
  do_softmax_statistics(q, statistics_T3, logits_TV, target_T, first_id, vocab_size);
}

void Ops::cross_entropy_loss(Queue q, Tensor loss_sum, Tensor statistics_PT3, Tensor target_T,
                             int64_t first_row, int64_t num_rows) {
  const Contract contract(__func__);
  const auto [P, T, three] = contract.dims<3>("statistics", statistics_PT3);
  contract.check("loss_sum", loss_sum, DType::kF64, {1});
  contract.check("statistics", statistics_PT3, DType::kF64, {P, T, 3});
  contract.check("target", target_T, DType::kI32, {T});
  contract.check_that(first_row >= 0 && num_rows >= 0 && first_row + num_rows <= T,
                      "the rows must be some of the targets (first, count)", first_row, num_rows);
  do_cross_entropy_loss(q, loss_sum, statistics_PT3, target_T, first_row, num_rows);
}

void Ops::cross_entropy_gradient(Queue q, Tensor logits_TV, Tensor statistics_PT3, Tensor target_T,
                                 int64_t first_id, Tensor scalars) {
  const Contract contract(__func__);
  contract.accumulator("logits", logits_TV);
  const auto [T, V] = contract.dims<2>("logits", logits_TV);
  const auto [P, rows, three] = contract.dims<3>("statistics", statistics_PT3);
  contract.check("statistics", statistics_PT3, DType::kF64, {P, T, 3});
  contract.check("target", target_T, DType::kI32, {T});
  contract.check("scalars", scalars, DType::kF64, {kNumStepScalars});
  do_cross_entropy_gradient(q, logits_TV, statistics_PT3, target_T, first_id, scalars);
}

// ---- Optimizer ----

void Ops::squared_norm_add(Queue q, Tensor sum, Tensor x) {
  const Contract contract(__func__);
  contract.real("x", x);
  contract.check("sum", sum, DType::kF64, {1});
  do_squared_norm_add(q, sum, x);
}

void Ops::clip_coefficient(Queue q, Tensor scalars, Tensor squared_norms, double max_norm) {
  const Contract contract(__func__);
  const auto [n] = contract.dims<1>("squared_norms", squared_norms);
  contract.check("scalars", scalars, DType::kF64, {kNumStepScalars});
  contract.check("squared_norms", squared_norms, DType::kF64, {n});
  do_clip_coefficient(q, scalars, squared_norms, max_norm);
}

void Ops::adamw(Queue q, Tensor weight, Tensor rounded_weight, Tensor m, Tensor v, Tensor gradient,
                Tensor scalars, double beta1, double beta2, double eps, double weight_decay) {
  const Contract contract(__func__);
  const DType real = contract.accumulator("weight", weight);
  if (!rounded_weight.is_none()) {
    contract.check_numel("weight", weight, DType::kF32, weight.numel());
    contract.check_numel("rounded_weight", rounded_weight, DType::kBF16, weight.numel());
  }
  contract.check_numel("m", m, real, weight.numel());
  contract.check_numel("v", v, real, weight.numel());
  contract.check_numel("gradient", gradient, real, weight.numel());
  contract.check("scalars", scalars, DType::kF64, {kNumStepScalars});
  do_adamw(q, weight, rounded_weight, m, v, gradient, scalars, beta1, beta2, eps, weight_decay);
}

// ---- Elementwise ----

void Ops::fill(Queue q, Tensor x, double value) {
  Contract(__func__).check_numel("x", x, x.dtype(), x.numel());  // any dtype, but a tensor
  do_fill(q, x, value);
}

void Ops::copy(Queue q, Tensor y, Tensor x) {
  Contract(__func__).check_numel("y", y, x.dtype(), x.numel());
  do_copy(q, y, x);
}

void Ops::convert(Queue q, Tensor y, Tensor x) {
  const Contract contract(__func__);
  contract.real("x", x);
  contract.check_numel("y", y, contract.real("y", y), x.numel());
  do_convert(q, y, x);
}

void Ops::add(Queue q, Tensor y, Tensor a, Tensor b) {
  const Contract contract(__func__);
  const DType real = contract.real("a", a);
  contract.check_numel("y", y, real, a.numel());
  contract.check_numel("b", b, real, a.numel());
  do_add(q, y, a, b);
}

void Ops::init_normal(Queue q, Tensor x_NM, double std, uint64_t key, int64_t first_index,
                      int64_t row_stride) {
  const Contract contract(__func__);
  contract.real("x", x_NM);
  const auto [N, M] = contract.dims<2>("x", x_NM);
  contract.check_that(row_stride >= M, "rows must not share numbers (row_stride, columns)",
                      row_stride, M);
  do_init_normal(q, x_NM, std, key, first_index, row_stride);
}

}  // namespace switchyard
