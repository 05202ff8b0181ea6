#include "deferred/deferred_ops.h"

namespace switchyard::test {

void DeferredOps::defer(Queue q, const char* name, std::initializer_list<Tensor> written,
                        std::initializer_list<Tensor> read, std::function<void()> run) {
  push_(q, {.name = name, .accesses = accesses_of(written, read), .run = std::move(run)});
}

void DeferredOps::do_matmul_nt(Queue q, Tensor y_TN, Tensor x_TK, Tensor w_NK) {
  defer(q, "matmul_nt", {y_TN}, {x_TK, w_NK}, [=, this] { inner_.matmul_nt(q, y_TN, x_TK, w_NK); });
}

void DeferredOps::do_matmul_nn(Queue q, Tensor x_TK, Tensor y_TN, Tensor w_NK) {
  defer(q, "matmul_nn", {x_TK}, {y_TN, w_NK}, [=, this] { inner_.matmul_nn(q, x_TK, y_TN, w_NK); });
}

void DeferredOps::do_matmul_nn_add(Queue q, Tensor x_TK, Tensor y_TN, Tensor w_NK) {
  defer(q, "matmul_nn_add", {x_TK}, {y_TN, w_NK},
        [=, this] { inner_.matmul_nn_add(q, x_TK, y_TN, w_NK); });
}

void DeferredOps::do_matmul_tn_add(Queue q, Tensor w_NK, Tensor y_TN, Tensor x_TK) {
  defer(q, "matmul_tn_add", {w_NK}, {y_TN, x_TK},
        [=, this] { inner_.matmul_tn_add(q, w_NK, y_TN, x_TK); });
}

void DeferredOps::do_grouped_matmul_nt(Queue q, Tensor y_RN, Tensor x_RK, Tensor w_LNK,
                                       Tensor begin_L1) {
  defer(q, "grouped_matmul_nt", {y_RN}, {x_RK, w_LNK, begin_L1},
        [=, this] { inner_.grouped_matmul_nt(q, y_RN, x_RK, w_LNK, begin_L1); });
}

void DeferredOps::do_grouped_matmul_nn(Queue q, Tensor x_RK, Tensor y_RN, Tensor w_LNK,
                                       Tensor begin_L1) {
  defer(q, "grouped_matmul_nn", {x_RK}, {y_RN, w_LNK, begin_L1},
        [=, this] { inner_.grouped_matmul_nn(q, x_RK, y_RN, w_LNK, begin_L1); });
}

void DeferredOps::do_grouped_matmul_nn_add(Queue q, Tensor x_RK, Tensor y_RN, Tensor w_LNK,
                                           Tensor begin_L1) {
  defer(q, "grouped_matmul_nn_add", {x_RK}, {y_RN, w_LNK, begin_L1},
        [=, this] { inner_.grouped_matmul_nn_add(q, x_RK, y_RN, w_LNK, begin_L1); });
}

void DeferredOps::do_grouped_matmul_tn_add(Queue q, Tensor w_LNK, Tensor y_RN, Tensor x_RK,
                                           Tensor begin_L1) {
  defer(q, "grouped_matmul_tn_add", {w_LNK}, {y_RN, x_RK, begin_L1},
        [=, this] { inner_.grouped_matmul_tn_add(q, w_LNK, y_RN, x_RK, begin_L1); });
}

void DeferredOps::do_embedding_forward(Queue q, Tensor y_TD, Tensor table_VD, Tensor ids_T,
                                       int64_t first_id, int64_t vocab_size) {
  defer(q, "embedding_forward", {y_TD}, {table_VD, ids_T},
        [=, this] { inner_.embedding_forward(q, y_TD, table_VD, ids_T, first_id, vocab_size); });
}

void DeferredOps::do_embedding_backward(Queue q, Tensor dtable_VD, Tensor dy_TD, Tensor ids_T,
                                        int64_t first_id, int64_t vocab_size) {
  defer(q, "embedding_backward", {dtable_VD}, {dy_TD, ids_T},
        [=, this] { inner_.embedding_backward(q, dtable_VD, dy_TD, ids_T, first_id, vocab_size); });
}

void DeferredOps::do_rmsnorm_forward(Queue q, Tensor y_TD, Tensor sum_TD, Tensor inv_rms_T,
                                     Tensor x_TD, Tensor delta_TD, Tensor weight_D, double eps) {
  defer(q, "rmsnorm_forward", {y_TD, sum_TD, inv_rms_T}, {x_TD, delta_TD, weight_D}, [=, this] {
    inner_.rmsnorm_forward(q, y_TD, sum_TD, inv_rms_T, x_TD, delta_TD, weight_D, eps);
  });
}

void DeferredOps::do_rmsnorm_backward(Queue q, Tensor dx_TD, Tensor dy_TD, Tensor dresidual_TD,
                                      Tensor x_TD, Tensor inv_rms_T, Tensor weight_D) {
  defer(q, "rmsnorm_backward", {dx_TD}, {dy_TD, dresidual_TD, x_TD, inv_rms_T, weight_D},
        [=, this] {
          inner_.rmsnorm_backward(q, dx_TD, dy_TD, dresidual_TD, x_TD, inv_rms_T, weight_D);
        });
}

void DeferredOps::do_rmsnorm_weight_backward(Queue q, Tensor dweight_D, Tensor dy_TD, Tensor x_TD,
                                             Tensor inv_rms_T) {
  defer(q, "rmsnorm_weight_backward", {dweight_D}, {dy_TD, x_TD, inv_rms_T},
        [=, this] { inner_.rmsnorm_weight_backward(q, dweight_D, dy_TD, x_TD, inv_rms_T); });
}

void DeferredOps::do_rope_forward(Queue q, Tensor x_THC, Tensor position_T, int64_t head_dim,
                                  double theta) {
  defer(q, "rope_forward", {x_THC}, {position_T},
        [=, this] { inner_.rope_forward(q, x_THC, position_T, head_dim, theta); });
}

void DeferredOps::do_rope_backward(Queue q, Tensor dx_THC, Tensor position_T, int64_t head_dim,
                                   double theta) {
  defer(q, "rope_backward", {dx_THC}, {position_T},
        [=, this] { inner_.rope_backward(q, dx_THC, position_T, head_dim, theta); });
}

void DeferredOps::do_attention_forward(Queue q, Tensor out_THC, Tensor log_sum_exp_TH,
                                       Tensor query_THC, Tensor key_TKC, Tensor value_TKC,
                                       Tensor first_visible_T, int64_t head_dim,
                                       int64_t sequence_length) {
  defer(q, "attention_forward", {out_THC, log_sum_exp_TH},
        {query_THC, key_TKC, value_TKC, first_visible_T}, [=, this] {
          inner_.attention_forward(q, out_THC, log_sum_exp_TH, query_THC, key_TKC, value_TKC,
                                   first_visible_T, head_dim, sequence_length);
        });
}

void DeferredOps::do_attention_backward(Queue q, Tensor dquery_THC, Tensor dkey_TKC,
                                        Tensor dvalue_TKC, Tensor dout_THC, Tensor out_THC,
                                        Tensor log_sum_exp_TH, Tensor query_THC, Tensor key_TKC,
                                        Tensor value_TKC, Tensor first_visible_T, int64_t head_dim,
                                        int64_t sequence_length) {
  defer(q, "attention_backward", {dquery_THC, dkey_TKC, dvalue_TKC},
        {dout_THC, out_THC, log_sum_exp_TH, query_THC, key_TKC, value_TKC, first_visible_T},
        [=, this] {
          inner_.attention_backward(q, dquery_THC, dkey_TKC, dvalue_TKC, dout_THC, out_THC,
                                    log_sum_exp_TH, query_THC, key_TKC, value_TKC, first_visible_T,
                                    head_dim, sequence_length);
        });
}

void DeferredOps::do_activation_forward(Queue q, Tensor y_RF, Tensor gate_RF, Tensor up_RF,
                                        Tensor weight_R, Activation activation) {
  defer(q, "activation_forward", {y_RF}, {gate_RF, up_RF, weight_R},
        [=, this] { inner_.activation_forward(q, y_RF, gate_RF, up_RF, weight_R, activation); });
}

void DeferredOps::do_activation_backward(Queue q, Tensor dgate_RF, Tensor dup_RF, Tensor dweight_R,
                                         Tensor dy_RF, Tensor gate_RF, Tensor up_RF,
                                         Tensor weight_R, Activation activation) {
  defer(q, "activation_backward", {dgate_RF, dup_RF, dweight_R}, {dy_RF, gate_RF, up_RF, weight_R},
        [=, this] {
          inner_.activation_backward(q, dgate_RF, dup_RF, dweight_R, dy_RF, gate_RF, up_RF,
                                     weight_R, activation);
        });
}

void DeferredOps::do_router_forward(Queue q, Tensor probs_TE, Tensor lse_T, Tensor expert_TA,
                                    Tensor score_TA, Tensor weight_TA, Tensor z_sum,
                                    Tensor entropy_sum, Tensor logits_TE, Tensor bias_E,
                                    const RouterRule& rule, bool expert_is_given) {
  defer(q, "router_forward", {probs_TE, lse_T, expert_TA, score_TA, weight_TA, z_sum, entropy_sum},
        {logits_TE, bias_E}, [=, this] {
          inner_.router_forward(q, probs_TE, lse_T, expert_TA, score_TA, weight_TA, z_sum,
                                entropy_sum, logits_TE, bias_E, rule, expert_is_given);
        });
}

void DeferredOps::do_router_statistics(Queue q, Tensor count_SE, Tensor prob_sum_SE,
                                       Tensor expert_TA, Tensor probs_TE, RouterScore score,
                                       int64_t first_row, int64_t rows_per_scope) {
  defer(q, "router_statistics", {count_SE, prob_sum_SE}, {expert_TA, probs_TE}, [=, this] {
    inner_.router_statistics(q, count_SE, prob_sum_SE, expert_TA, probs_TE, score, first_row,
                             rows_per_scope);
  });
}

void DeferredOps::do_balance_loss(Queue q, Tensor loss_sum, Tensor prob_gradient_SE,
                                  Tensor count_SE, Tensor prob_sum_SE, int64_t tokens_per_scope,
                                  int64_t counted_tokens, int64_t top_k) {
  defer(q, "balance_loss", {loss_sum, prob_gradient_SE}, {count_SE, prob_sum_SE}, [=, this] {
    inner_.balance_loss(q, loss_sum, prob_gradient_SE, count_SE, prob_sum_SE, tokens_per_scope,
                        counted_tokens, top_k);
  });
}

void DeferredOps::do_router_backward(Queue q, Tensor dlogits_TE, Tensor dweight_TA,
                                     Tensor expert_TA, Tensor weight_TA, Tensor probs_TE,
                                     Tensor lse_T, Tensor logits_TE, Tensor prob_gradient_SE,
                                     const RouterRule& rule, int64_t first_row,
                                     int64_t rows_per_scope, double balance_scale, double z_scale) {
  defer(q, "router_backward", {dlogits_TE},
        {dweight_TA, expert_TA, weight_TA, probs_TE, lse_T, logits_TE, prob_gradient_SE},
        [=, this] {
          inner_.router_backward(q, dlogits_TE, dweight_TA, expert_TA, weight_TA, probs_TE, lse_T,
                                 logits_TE, prob_gradient_SE, rule, first_row, rows_per_scope,
                                 balance_scale, z_scale);
        });
}

void DeferredOps::do_sinkhorn_costs(Queue q, Tensor cost_TE, Tensor logits_TE) {
  defer(q, "sinkhorn_costs", {cost_TE}, {logits_TE},
        [=, this] { inner_.sinkhorn_costs(q, cost_TE, logits_TE); });
}

void DeferredOps::do_sinkhorn_sums(Queue q, Tensor sum_SE, Tensor factor_SE, Tensor cost_TE,
                                   int64_t first_row, int64_t rows_per_scope) {
  defer(q, "sinkhorn_sums", {sum_SE}, {factor_SE, cost_TE}, [=, this] {
    inner_.sinkhorn_sums(q, sum_SE, factor_SE, cost_TE, first_row, rows_per_scope);
  });
}

void DeferredOps::do_sinkhorn_factors(Queue q, Tensor factor_SE, Tensor sum_SE) {
  defer(q, "sinkhorn_factors", {factor_SE}, {sum_SE},
        [=, this] { inner_.sinkhorn_factors(q, factor_SE, sum_SE); });
}

void DeferredOps::do_sinkhorn_choice(Queue q, Tensor expert_TA, Tensor factor_SE, Tensor cost_TE,
                                     int64_t first_row, int64_t rows_per_scope) {
  defer(q, "sinkhorn_choice", {expert_TA}, {factor_SE, cost_TE}, [=, this] {
    inner_.sinkhorn_choice(q, expert_TA, factor_SE, cost_TE, first_row, rows_per_scope);
  });
}

void DeferredOps::do_update_router_bias(Queue q, Tensor bias_E, Tensor count_E1, Tensor scalars,
                                        double rate) {
  defer(q, "update_router_bias", {bias_E}, {count_E1, scalars},
        [=, this] { inner_.update_router_bias(q, bias_E, count_E1, scalars, rate); });
}

void DeferredOps::do_balanced_choice(Queue q, Tensor expert_TA, int64_t first_token,
                                     int64_t num_experts) {
  defer(q, "balanced_choice", {expert_TA}, {},
        [=, this] { inner_.balanced_choice(q, expert_TA, first_token, num_experts); });
}

void DeferredOps::do_jitter(Queue q, Tensor y_TD, Tensor x_TD, double eps, uint64_t key,
                            uint64_t stream, int64_t first_row) {
  defer(q, "jitter", {y_TD}, {x_TD},
        [=, this] { inner_.jitter(q, y_TD, x_TD, eps, key, stream, first_row); });
}

void DeferredOps::do_drop_tokens(Queue q, Tensor kept_TA, Tensor expert_TA, Tensor score_TA,
                                 int64_t num_experts, int64_t num_scopes, int64_t capacity,
                                 DropOrder order) {
  defer(q, "drop_tokens", {kept_TA}, {expert_TA, score_TA}, [=, this] {
    inner_.drop_tokens(q, kept_TA, expert_TA, score_TA, num_experts, num_scopes, capacity, order);
  });
}

void DeferredOps::do_expert_load(Queue q, Tensor count_E1, Tensor kept_TA) {
  defer(q, "expert_load", {count_E1}, {kept_TA},
        [=, this] { inner_.expert_load(q, count_E1, kept_TA); });
}

void DeferredOps::do_plan_send(Queue q, Tensor send_row_TP, Tensor send_token, Tensor counts_2P,
                               Tensor kept_TA, int64_t experts_per_peer) {
  defer(q, "plan_send", {send_row_TP, send_token, counts_2P}, {kept_TA}, [=, this] {
    inner_.plan_send(q, send_row_TP, send_token, counts_2P, kept_TA, experts_per_peer);
  });
}

void DeferredOps::do_pack_rows(Queue q, Tensor rows_NB, Tensor x_TD, Tensor weight_TA,
                               Tensor kept_TA, Tensor send_token_N, Tensor send_row_TP,
                               int64_t experts_per_peer) {
  defer(q, "pack_rows", {rows_NB}, {x_TD, weight_TA, kept_TA, send_token_N, send_row_TP},
        [=, this] {
          inner_.pack_rows(q, rows_NB, x_TD, weight_TA, kept_TA, send_token_N, send_row_TP,
                           experts_per_peer);
        });
}

void DeferredOps::do_plan_receive(Queue q, Tensor begin_L1, Tensor source_row_R, Tensor gate_R,
                                  Tensor row_of_choice_NA, Tensor rows_NB, int64_t model_width,
                                  DType real) {
  defer(q, "plan_receive", {begin_L1, source_row_R, gate_R, row_of_choice_NA}, {rows_NB},
        [=, this] {
          inner_.plan_receive(q, begin_L1, source_row_R, gate_R, row_of_choice_NA, rows_NB,
                              model_width, real);
        });
}

void DeferredOps::do_unpack_rows(Queue q, Tensor x_RD, Tensor rows_NB, Tensor source_row_R) {
  defer(q, "unpack_rows", {x_RD}, {rows_NB, source_row_R},
        [=, this] { inner_.unpack_rows(q, x_RD, rows_NB, source_row_R); });
}

void DeferredOps::do_combine_rows(Queue q, Tensor out_ND, Tensor in_RD, Tensor index_NJ) {
  defer(q, "combine_rows", {out_ND}, {in_RD, index_NJ},
        [=, this] { inner_.combine_rows(q, out_ND, in_RD, index_NJ); });
}

void DeferredOps::do_gather_rows(Queue q, Tensor out_RD, Tensor in_ND, Tensor index_R) {
  defer(q, "gather_rows", {out_RD}, {in_ND, index_R},
        [=, this] { inner_.gather_rows(q, out_RD, in_ND, index_R); });
}

void DeferredOps::do_gather_slots(Queue q, Tensor slots_NA, Tensor value_R, Tensor index_NA) {
  defer(q, "gather_slots", {slots_NA}, {value_R, index_NA},
        [=, this] { inner_.gather_slots(q, slots_NA, value_R, index_NA); });
}

void DeferredOps::do_pack_row_gradients(Queue q, Tensor rows_NB, Tensor dx_ND, Tensor dgate_NA) {
  defer(q, "pack_row_gradients", {rows_NB}, {dx_ND, dgate_NA},
        [=, this] { inner_.pack_row_gradients(q, rows_NB, dx_ND, dgate_NA); });
}

void DeferredOps::do_unpack_row_gradients(Queue q, Tensor dx_TD, Tensor dweight_TA, Tensor rows_NB,
                                          Tensor send_row_TP, Tensor kept_TA,
                                          int64_t experts_per_peer) {
  defer(q, "unpack_row_gradients", {dx_TD, dweight_TA}, {rows_NB, send_row_TP, kept_TA}, [=, this] {
    inner_.unpack_row_gradients(q, dx_TD, dweight_TA, rows_NB, send_row_TP, kept_TA,
                                experts_per_peer);
  });
}

void DeferredOps::do_softmax_statistics(Queue q, Tensor statistics_T3, Tensor logits_TV,
                                        Tensor target_T, int64_t first_id, int64_t vocab_size) {
  defer(q, "softmax_statistics", {statistics_T3}, {logits_TV, target_T}, [=, this] {
    inner_.softmax_statistics(q, statistics_T3, logits_TV, target_T, first_id, vocab_size);
  });
}

void DeferredOps::do_cross_entropy_loss(Queue q, Tensor loss_sum, Tensor statistics_PT3,
                                        Tensor target_T, int64_t first_row, int64_t num_rows) {
  defer(q, "cross_entropy_loss", {loss_sum}, {statistics_PT3, target_T}, [=, this] {
    inner_.cross_entropy_loss(q, loss_sum, statistics_PT3, target_T, first_row, num_rows);
  });
}

void DeferredOps::do_cross_entropy_gradient(Queue q, Tensor logits_TV, Tensor statistics_PT3,
                                            Tensor target_T, int64_t first_id, Tensor scalars) {
  defer(q, "cross_entropy_gradient", {logits_TV}, {statistics_PT3, target_T, scalars}, [=, this] {
    inner_.cross_entropy_gradient(q, logits_TV, statistics_PT3, target_T, first_id, scalars);
  });
}

void DeferredOps::do_squared_norm_add(Queue q, Tensor sum, Tensor x) {
  defer(q, "squared_norm_add", {sum}, {x}, [=, this] { inner_.squared_norm_add(q, sum, x); });
}

void DeferredOps::do_clip_coefficient(Queue q, Tensor scalars, Tensor norm_and_loss_P2,
                                      double max_norm) {
  defer(q, "clip_coefficient", {scalars}, {norm_and_loss_P2},
        [=, this] { inner_.clip_coefficient(q, scalars, norm_and_loss_P2, max_norm); });
}

void DeferredOps::do_adamw(Queue q, Tensor weight, Tensor rounded_weight, Tensor m, Tensor v,
                           Tensor gradient, Tensor scalars, double beta1, double beta2, double eps,
                           double weight_decay) {
  defer(q, "adamw", {weight, rounded_weight, m, v}, {gradient, scalars}, [=, this] {
    inner_.adamw(q, weight, rounded_weight, m, v, gradient, scalars, beta1, beta2, eps,
                 weight_decay);
  });
}

void DeferredOps::do_fill(Queue q, Tensor x, double value) {
  defer(q, "fill", {x}, {}, [=, this] { inner_.fill(q, x, value); });
}

void DeferredOps::do_copy(Queue q, Tensor y, Tensor x) {
  defer(q, "copy", {y}, {x}, [=, this] { inner_.copy(q, y, x); });
}

void DeferredOps::do_convert(Queue q, Tensor y, Tensor x) {
  defer(q, "convert", {y}, {x}, [=, this] { inner_.convert(q, y, x); });
}

void DeferredOps::do_add(Queue q, Tensor y, Tensor a, Tensor b) {
  defer(q, "add", {y}, {a, b}, [=, this] { inner_.add(q, y, a, b); });
}

void DeferredOps::do_init_normal(Queue q, Tensor x_NM, double std, uint64_t key,
                                 int64_t first_index, int64_t row_stride) {
  defer(q, "init_normal", {x_NM}, {},
        [=, this] { inner_.init_normal(q, x_NM, std, key, first_index, row_stride); });
}

void DeferredOps::do_digest_add(Queue q, Tensor sum, Tensor x_NM, int64_t first_index,
                                int64_t row_stride) {
  defer(q, "digest_add", {sum}, {x_NM},
        [=, this] { inner_.digest_add(q, sum, x_NM, first_index, row_stride); });
}

}  // namespace switchyard::test
