// DeferredOps: queues every operation with its arguments, which a device would read when it gets
// there: the values of tensors then, everything else now. What an operation writes (or adds to) and
// what it reads is said in deferred_ops.cpp, operation by operation.
#pragma once

#include <functional>
#include <initializer_list>
#include <utility>

#include "backend/ops.h"
#include "deferred/timeline.h"

namespace switchyard::test {

class DeferredOps final : public Ops {
 public:
  // `inner` does the work when it runs; `push` puts it into its queue.
  DeferredOps(Ops& inner, std::function<void(Queue, Work)> push)
      : inner_(inner), push_(std::move(push)) {}

 private:
  void defer(Queue q, const char* name, std::initializer_list<Tensor> written,
             std::initializer_list<Tensor> read, std::function<void()> run);

  void do_matmul_nt(Queue q, Tensor y_TN, Tensor x_TK, Tensor w_NK) override;
  void do_matmul_nn(Queue q, Tensor x_TK, Tensor y_TN, Tensor w_NK) override;
  void do_matmul_nn_add(Queue q, Tensor x_TK, Tensor y_TN, Tensor w_NK) override;
  void do_matmul_tn_add(Queue q, Tensor w_NK, Tensor y_TN, Tensor x_TK) override;
  void do_grouped_matmul_nt(Queue q, Tensor y_RN, Tensor x_RK, Tensor w_LNK,
                            Tensor begin_L1) override;
  void do_grouped_matmul_nn(Queue q, Tensor x_RK, Tensor y_RN, Tensor w_LNK,
                            Tensor begin_L1) override;
  void do_grouped_matmul_nn_add(Queue q, Tensor x_RK, Tensor y_RN, Tensor w_LNK,
                                Tensor begin_L1) override;
  void do_grouped_matmul_tn_add(Queue q, Tensor w_LNK, Tensor y_RN, Tensor x_RK,
                                Tensor begin_L1) override;
  void do_embedding_forward(Queue q, Tensor y_TD, Tensor table_VD, Tensor ids_T, int64_t first_id,
                            int64_t vocab_size) override;
  void do_embedding_backward(Queue q, Tensor dtable_VD, Tensor dy_TD, Tensor ids_T,
                             int64_t first_id, int64_t vocab_size) override;
  void do_rmsnorm_forward(Queue q, Tensor y_TD, Tensor sum_TD, Tensor inv_rms_T, Tensor x_TD,
                          Tensor delta_TD, Tensor weight_D, double eps) override;
  void do_rmsnorm_backward(Queue q, Tensor dx_TD, Tensor dy_TD, Tensor dresidual_TD, Tensor x_TD,
                           Tensor inv_rms_T, Tensor weight_D) override;
  void do_rmsnorm_weight_backward(Queue q, Tensor dweight_D, Tensor dy_TD, Tensor x_TD,
                                  Tensor inv_rms_T) override;
  void do_rope_forward(Queue q, Tensor x_THC, Tensor position_T, int64_t head_dim,
                       double theta) override;
  void do_rope_backward(Queue q, Tensor dx_THC, Tensor position_T, int64_t head_dim,
                        double theta) override;
  void do_attention_forward(Queue q, Tensor out_THC, Tensor log_sum_exp_TH, Tensor query_THC,
                            Tensor key_TKC, Tensor value_TKC, Tensor first_visible_T,
                            int64_t head_dim, int64_t sequence_length) override;
  void do_attention_backward(Queue q, Tensor dquery_THC, Tensor dkey_TKC, Tensor dvalue_TKC,
                             Tensor dout_THC, Tensor out_THC, Tensor log_sum_exp_TH,
                             Tensor query_THC, Tensor key_TKC, Tensor value_TKC,
                             Tensor first_visible_T, int64_t head_dim,
                             int64_t sequence_length) override;
  void do_activation_forward(Queue q, Tensor y_RF, Tensor gate_RF, Tensor up_RF, Tensor weight_R,
                             Activation activation) override;
  void do_activation_backward(Queue q, Tensor dgate_RF, Tensor dup_RF, Tensor dweight_R,
                              Tensor dy_RF, Tensor gate_RF, Tensor up_RF, Tensor weight_R,
                              Activation activation) override;
  void do_router_forward(Queue q, Tensor probs_TE, Tensor lse_T, Tensor expert_TA, Tensor score_TA,
                         Tensor weight_TA, Tensor z_sum, Tensor entropy_sum, Tensor logits_TE,
                         Tensor bias_E, const RouterRule& rule, bool expert_is_given) override;
  void do_router_statistics(Queue q, Tensor count_SE, Tensor prob_sum_SE, Tensor expert_TA,
                            Tensor probs_TE, RouterScore score, int64_t first_row,
                            int64_t rows_per_scope) override;
  void do_balance_loss(Queue q, Tensor loss_sum, Tensor prob_gradient_SE, Tensor count_SE,
                       Tensor prob_sum_SE, int64_t tokens_per_scope, int64_t counted_tokens,
                       int64_t top_k) override;
  void do_router_backward(Queue q, Tensor dlogits_TE, Tensor dweight_TA, Tensor expert_TA,
                          Tensor weight_TA, Tensor probs_TE, Tensor lse_T, Tensor logits_TE,
                          Tensor prob_gradient_SE, const RouterRule& rule, int64_t first_row,
                          int64_t rows_per_scope, double balance_scale, double z_scale) override;
  void do_sinkhorn_costs(Queue q, Tensor cost_TE, Tensor logits_TE) override;
  void do_sinkhorn_sums(Queue q, Tensor sum_SE, Tensor factor_SE, Tensor cost_TE, int64_t first_row,
                        int64_t rows_per_scope) override;
  void do_sinkhorn_factors(Queue q, Tensor factor_SE, Tensor sum_SE) override;
  void do_sinkhorn_choice(Queue q, Tensor expert_TA, Tensor factor_SE, Tensor cost_TE,
                          int64_t first_row, int64_t rows_per_scope) override;
  void do_update_router_bias(Queue q, Tensor bias_E, Tensor count_E1, Tensor scalars,
                             double rate) override;
  void do_balanced_choice(Queue q, Tensor expert_TA, int64_t first_token,
                          int64_t num_experts) override;
  void do_jitter(Queue q, Tensor y_TD, Tensor x_TD, double eps, uint64_t key, uint64_t stream,
                 int64_t first_row) override;
  void do_drop_tokens(Queue q, Tensor kept_TA, Tensor expert_TA, Tensor score_TA,
                      int64_t num_experts, int64_t num_scopes, int64_t capacity,
                      DropOrder order) override;
  void do_expert_load(Queue q, Tensor count_E1, Tensor kept_TA) override;
  void do_plan_send(Queue q, Tensor send_row_TP, Tensor send_token, Tensor counts_2P,
                    Tensor kept_TA, int64_t experts_per_peer) override;
  void do_pack_rows(Queue q, Tensor rows_NB, Tensor x_TD, Tensor weight_TA, Tensor kept_TA,
                    Tensor send_token_N, Tensor send_row_TP, int64_t experts_per_peer) override;
  void do_plan_receive(Queue q, Tensor begin_L1, Tensor source_row_R, Tensor gate_R,
                       Tensor row_of_choice_NA, Tensor rows_NB, int64_t model_width,
                       DType real) override;
  void do_unpack_rows(Queue q, Tensor x_RD, Tensor rows_NB, Tensor source_row_R) override;
  void do_combine_rows(Queue q, Tensor out_ND, Tensor in_RD, Tensor index_NJ) override;
  void do_gather_rows(Queue q, Tensor out_RD, Tensor in_ND, Tensor index_R) override;
  void do_gather_slots(Queue q, Tensor slots_NA, Tensor value_R, Tensor index_NA) override;
  void do_pack_row_gradients(Queue q, Tensor rows_NB, Tensor dx_ND, Tensor dgate_NA) override;
  void do_unpack_row_gradients(Queue q, Tensor dx_TD, Tensor dweight_TA, Tensor rows_NB,
                               Tensor send_row_TP, Tensor kept_TA,
                               int64_t experts_per_peer) override;
  void do_softmax_statistics(Queue q, Tensor statistics_T3, Tensor logits_TV, Tensor target_T,
                             int64_t first_id, int64_t vocab_size) override;
  void do_cross_entropy_loss(Queue q, Tensor loss_sum, Tensor statistics_PT3, Tensor target_T,
                             int64_t first_row, int64_t num_rows) override;
  void do_cross_entropy_gradient(Queue q, Tensor logits_TV, Tensor statistics_PT3, Tensor target_T,
                                 int64_t first_id, Tensor scalars) override;
  void do_squared_norm_add(Queue q, Tensor sum, Tensor x) override;
  void do_clip_coefficient(Queue q, Tensor scalars, Tensor norm_and_loss_P2,
                           double max_norm) override;
  void do_adamw(Queue q, Tensor weight, Tensor rounded_weight, Tensor m, Tensor v, Tensor gradient,
                Tensor scalars, double beta1, double beta2, double eps,
                double weight_decay) override;
  void do_fill(Queue q, Tensor x, double value) override;
  void do_copy(Queue q, Tensor y, Tensor x) override;
  void do_convert(Queue q, Tensor y, Tensor x) override;
  void do_add(Queue q, Tensor y, Tensor a, Tensor b) override;
  void do_init_normal(Queue q, Tensor x_NM, double std, uint64_t key, int64_t first_index,
                      int64_t row_stride) override;
  void do_digest_add(Queue q, Tensor sum, Tensor x_NM, int64_t first_index,
                     int64_t row_stride) override;

  Ops& inner_;
  std::function<void(Queue, Work)> push_;
};

}  // namespace switchyard::test
