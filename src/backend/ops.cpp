// The contracts of dense layers, loss, optimizer and elementwise operations (ops.h).
#include "backend/ops.h"

#include "backend/contract.h"

namespace switchyard {
namespace {

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

}  // namespace

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

void Ops::clip_coefficient(Queue q, Tensor scalars, Tensor norm_and_loss_P2, double max_norm) {
  const Contract contract(__func__);
  const auto [P, two] = contract.dims<2>("norm_and_loss_P2", norm_and_loss_P2);
  contract.check("scalars", scalars, DType::kF64, {kNumStepScalars});
  contract.check("norm_and_loss_P2", norm_and_loss_P2, DType::kF64, {P, 2});
  do_clip_coefficient(q, scalars, norm_and_loss_P2, max_norm);
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

void Ops::digest_add(Queue q, Tensor sum, Tensor x_NM, int64_t first_index, int64_t row_stride) {
  const Contract contract(__func__);
  const auto [N, M] = contract.dims<2>("x", x_NM);
  contract.check("sum", sum, DType::kI64, {1});
  contract.check_that(row_stride >= M, "rows must not share elements (row_stride, columns)",
                      row_stride, M);
  do_digest_add(q, sum, x_NM, first_index, row_stride);
}

}  // namespace switchyard
