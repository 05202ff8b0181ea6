// Ops: all the mathematics of the project, on one page.
//
// Each function has the granularity of one fused GPU kernel (or one GEMM). The public function is
// the contract: it states shapes and checks them (ops.cpp, ops_moe.cpp); the private do_... is the
// backend.
// Outputs come first. All tensors are contiguous, row-major and on the backend's device. "+=" means
// that the result is added to what the output holds; every other output is overwritten, and may
// hold anything before. Zero rows (T = 0, R = 0) are legal everywhere.
//
// Shape legend (src/README.md):  T tokens  D model width  V vocabulary  H query heads  K key/value
// heads  C channels per head  F hidden width  E experts  L local experts  A experts per token
// R expert rows  P expert-parallel ranks  N rows that travel  S scopes of a balance loss
//
// Activations and weights share one dtype, `real`: f32, f64 or bf16, which is storage only: it is
// read as f32, and a result is computed in f32 and rounded to nearest once. What sums or decides is
// of real's accumulator dtype `acc` (f32 for bf16, else real itself): gradients of weights; inv_rms
// and log_sum_exp; the router's logits, probs, scores, weights and their gradients; gate weights
// and their gradients; the logits of the loss and their gradient. Statistics are f64, indices i32.
// Sums over tokens run in a fixed order: same inputs, same bits.
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace switchyard {

// Labels of tokens that do not count in the loss (the value PyTorch uses).
inline constexpr int32_t kIgnoredTarget = -100;

enum class Activation { kSwiGLU, kReLU, kGELU };  // GELU: exact, x * Phi(x)
enum class DropOrder { kProbs, kPosition };

enum class RouterScore { kSoftmax, kSigmoid };
// How a token's scores become its choice of experts and their gate weights.
struct RouterRule {
  RouterScore score = RouterScore::kSoftmax;
  bool normalize = true;  // weights: scores / sum of the chosen
  double scale = 1;       // of the weights, after that
  // Choice within the best `top_groups` of `num_groups` groups of consecutive experts.
  int64_t num_groups = 1, top_groups = 1;
};

// The numbers that change from step to step. They live in one small f64 device tensor, so that no
// kernel argument changes between steps and the host never waits for one of them.
enum class StepScalar : int {
  kLearningRate,
  kBiasCorrection1,     // 1 - beta1^step
  kBiasCorrection2,     // 1 - beta2^step
  kInverseTargetCount,  // 1 / targets of the global batch that count (0 if there is none)
  kLossLimit,           // a step of which the mean loss is above is skipped; infinity: none
  kLoss,                // mean over the targets that count; this and the rest: clip_coefficient
  kGradNorm,
  kClipCoefficient,
  kSkipStep,  // 1 when the step must leave weights, moments and biases as they are
  kCount,
};
inline constexpr int64_t kNumStepScalars = static_cast<int64_t>(StepScalar::kCount);

// How one row travels to a peer that holds some of the token's experts, and back. A row is bytes:
//   dispatch:           [D reals: hidden state] [A accs: gate weights] [A i32: local expert or -1]
//   gradient, returned: [D reals: d hidden]     [A accs: d gate weights]
// The reals are padded so that the gate weights, at `row_gate_offset` bytes, are aligned; the row
// is padded to 16 bytes. Slot a of a row is choice a of the token.
int64_t row_gate_offset(int64_t model_width, DType real);
int64_t dispatch_row_bytes(int64_t model_width, int64_t top_k, DType real);
int64_t gradient_row_bytes(int64_t model_width, int64_t top_k, DType real);

class Ops {
 public:
  virtual ~Ops() = default;

  // ---- Matrix products ----
  // nt: y = x w^T, and so on; weights are (outputs, inputs) as in PyTorch. Each operand and the
  // output may be bf16 or f32, in any mixture (f64 goes with f64 alone). Sums are in f32; one that
  // is added to a bf16 output is rounded once.
  void matmul_nt(Queue q, Tensor y_TN, Tensor x_TK, Tensor w_NK);
  void matmul_nn(Queue q, Tensor x_TK, Tensor y_TN, Tensor w_NK);      // x = y w
  void matmul_nn_add(Queue q, Tensor x_TK, Tensor y_TN, Tensor w_NK);  // x += y w
  void matmul_tn_add(Queue q, Tensor w_NK, Tensor y_TN, Tensor x_TK);  // w += y^T x
  // One product per expert: expert e owns rows [begin[e], begin[e+1]) of x and y. w is (L, N, K).
  void grouped_matmul_nt(Queue q, Tensor y_RN, Tensor x_RK, Tensor w_LNK, Tensor begin_L1);
  void grouped_matmul_nn(Queue q, Tensor x_RK, Tensor y_RN, Tensor w_LNK, Tensor begin_L1);
  void grouped_matmul_nn_add(Queue q, Tensor x_RK, Tensor y_RN, Tensor w_LNK, Tensor begin_L1);
  void grouped_matmul_tn_add(Queue q, Tensor w_LNK, Tensor y_RN, Tensor x_RK, Tensor begin_L1);

  // ---- Embedding ----
  // table_VD holds the rows of the ids [first_id, first_id + V) of a vocabulary of `vocab_size`:
  // other ids give a row of zeros and receive no gradient. dtable is acc.
  void embedding_forward(Queue q, Tensor y_TD, Tensor table_VD, Tensor ids_T, int64_t first_id,
                         int64_t vocab_size);
  void embedding_backward(Queue q, Tensor dtable_VD, Tensor dy_TD, Tensor ids_T, int64_t first_id,
                          int64_t vocab_size);  // +=

  // ---- RMSNorm (arXiv 1910.07467), with the residual sum before it ----
  // sum = x + delta;  inv_rms = 1 / sqrt(mean(sum^2) + eps);  y = sum * inv_rms * weight, of the
  // sum as it is stored. Without delta (none), sum is x itself and `sum_TD` is none too. inv_rms
  // and dweight are acc.
  void rmsnorm_forward(Queue q, Tensor y_TD, Tensor sum_TD, Tensor inv_rms_T, Tensor x_TD,
                       Tensor delta_TD, Tensor weight_D, double eps);
  // dx = dresidual (if given) + gradient through the norm of x (its input, the sum).
  void rmsnorm_backward(Queue q, Tensor dx_TD, Tensor dy_TD, Tensor dresidual_TD, Tensor x_TD,
                        Tensor inv_rms_T, Tensor weight_D);
  void rmsnorm_weight_backward(Queue q, Tensor dweight_D, Tensor dy_TD, Tensor x_TD,
                               Tensor inv_rms_T);  // +=

  // ---- Attention ----
  // Rotary embedding (arXiv 2104.09864), in place, half-split as Hugging Face: channel i is paired
  // with i + C/2. x is (T, heads * C). rope_backward rotates the other way.
  void rope_forward(Queue q, Tensor x_THC, Tensor position_T, int64_t head_dim, double theta);
  void rope_backward(Queue q, Tensor dx_THC, Tensor position_T, int64_t head_dim, double theta);
  // Causal softmax attention, scale 1/sqrt(C), grouped-query (head h uses key/value head h*K/H).
  // Rows are sequences of `sequence_length` tokens, one after another; row t sees the rows
  // [first_visible[t], t], which lie inside its sequence. The score matrix is never materialised.
  // log_sum_exp (T, H) acc is what the backward needs.
  void attention_forward(Queue q, Tensor out_THC, Tensor log_sum_exp_TH, Tensor query_THC,
                         Tensor key_TKC, Tensor value_TKC, Tensor first_visible_T, int64_t head_dim,
                         int64_t sequence_length);
  void attention_backward(Queue q, Tensor dquery_THC, Tensor dkey_TKC, Tensor dvalue_TKC,
                          Tensor dout_THC, Tensor out_THC, Tensor log_sum_exp_TH, Tensor query_THC,
                          Tensor key_TKC, Tensor value_TKC, Tensor first_visible_T,
                          int64_t head_dim, int64_t sequence_length);

  // ---- Feed-forward activation x gate weight ----
  // y = act(gate) * up * weight[row].
  // kSwiGLU: act = silu. kReLU, kGELU: `up` is none (factor 1). weight (R) acc is none in dense
  // layers (factor 1).
  void activation_forward(Queue q, Tensor y_RF, Tensor gate_RF, Tensor up_RF, Tensor weight_R,
                          Activation activation);
  // dup and dweight are none exactly when up and weight are.
  void activation_backward(Queue q, Tensor dgate_RF, Tensor dup_RF, Tensor dweight_R, Tensor dy_RF,
                           Tensor gate_RF, Tensor up_RF, Tensor weight_R, Activation activation);

  // ---- Router (all of it acc, but for the x of jitter) ----
  // probs = the scores of all experts, softmax(logits) or sigmoid(logits). expert = the A largest
  // of score + bias, largest first (ties: lower index); bias_E (f64) may be none. With groups: only
  // experts of the `top_groups` groups whose two largest score + bias have the largest sums (ties:
  // lower group; arXiv 2412.19437). score = the scores of the chosen, without bias. weight =
  // scale * score / (sum of the A scores) if `normalize`, else scale * score; for sigmoids, as in
  // DeepSeek-V3, 1e-20 is added to the sum. lse_t = log sum_e exp(logits[t,e]); z_sum (1) f64 +=
  // sum_t lse_t^2. entropy_sum (1) f64 += sum_t -sum_e P log P, in nats, where P are the
  // probabilities of the balance loss: the softmax, or each sigmoid's share of their sum. With
  // `expert_is_given`, expert_TA is an input and only the rest is computed.
  void router_forward(Queue q, Tensor probs_TE, Tensor lse_T, Tensor expert_TA, Tensor score_TA,
                      Tensor weight_TA, Tensor z_sum, Tensor entropy_sum, Tensor logits_TE,
                      Tensor bias_E, const RouterRule& rule, bool expert_is_given);
  // Counts and probability mass (sum of the P above) per scope (f64): row t belongs to scope
  // (first_row + t) / rows_per_scope. The rows need not cover all scopes, nor any scope wholly.
  void router_statistics(Queue q, Tensor count_SE, Tensor prob_sum_SE, Tensor expert_TA,
                         Tensor probs_TE, RouterScore score, int64_t first_row,
                         int64_t rows_per_scope);
  // Balance loss of each scope of n = `tokens_per_scope` tokens: E * sum_e f_e P_e with
  // f_e = count / (A N), P_e = prob_sum / n (Switch, arXiv 2101.03961; 1 when balanced). The counts
  // are of N = `counted_tokens` tokens: the scope's own, or more (arXiv 2501.11873).
  // loss_sum (1) f64 += sum over scopes; prob_gradient_SE = d(loss of scope)/d(P of a token) =
  // E f_e / n.
  void balance_loss(Queue q, Tensor loss_sum, Tensor prob_gradient_SE, Tensor count_SE,
                    Tensor prob_sum_SE, int64_t tokens_per_scope, int64_t counted_tokens,
                    int64_t top_k);
  // dlogits from dweight (gradient of weight_TA), the balance loss (balance_scale * prob_gradient)
  // and the z-loss (z_scale * lse^2). Scopes as in router_statistics. The choice and the bias have
  // no gradient. logits_TE: given for sigmoids, none for the softmax.
  void router_backward(Queue q, Tensor dlogits_TE, Tensor dweight_TA, Tensor expert_TA,
                       Tensor weight_TA, Tensor probs_TE, Tensor lse_T, Tensor logits_TE,
                       Tensor prob_gradient_SE, const RouterRule& rule, int64_t first_row,
                       int64_t rows_per_scope, double balance_scale, double z_scale);
  // Sinkhorn's iteration (S-BASE, arXiv 2202.01169) towards factors of tokens and experts with
  // which the costs of each scope of n tokens have equal row sums and equal column sums; all in
  // f64. The sums of ranks can be added up between the two steps of a round. Scopes as in
  // router_statistics.
  void sinkhorn_costs(Queue q, Tensor cost_TE,
                      Tensor logits_TE);  // exp(logit - largest of the token)
  // sum_SE = sum over the tokens here of factor_t cost, factor_t = 1 / (n (sum_e factor cost +
  // 1e-8))
  void sinkhorn_sums(Queue q, Tensor sum_SE, Tensor factor_SE, Tensor cost_TE, int64_t first_row,
                     int64_t rows_per_scope);
  void sinkhorn_factors(Queue q, Tensor factor_SE, Tensor sum_SE);  // 1 / (E (sum + 1e-8))
  // expert = the A largest of factor * cost, largest first, ties: lower index.
  void sinkhorn_choice(Queue q, Tensor expert_TA, Tensor factor_SE, Tensor cost_TE,
                       int64_t first_row, int64_t rows_per_scope);
  // Balancing without a loss (arXiv 2408.15664): bias_E (f64) += rate * sign(mean count - count),
  // count_E1 as of expert_load, its last entry ignored. Nothing when kSkipStep.
  void update_router_bias(Queue q, Tensor bias_E, Tensor count_E1, Tensor scalars, double rate);
  // expert[t,a] = ((first_token + t) * A + a) mod E: perfectly balanced, for benchmarks and tests.
  void balanced_choice(Queue q, Tensor expert_TA, int64_t first_token, int64_t num_experts);
  // y = x * U(1-eps, 1+eps), number (first_row + t) * D + d of the stream (key, stream).
  // The same call on a gradient is its backward.
  void jitter(Queue q, Tensor y_TD, Tensor x_TD, double eps, uint64_t key, uint64_t stream,
              int64_t first_row);
  // kept = expert, with -1 where the expert is full: at most `capacity` tokens per expert and scope
  // (scope s is rows [s*T/S, (s+1)*T/S)). kProbs keeps the largest scores, compared after rounding
  // to multiples of 2^-20, ties by lower token; kPosition keeps first choices before second ones,
  // then lower tokens.
  void drop_tokens(Queue q, Tensor kept_TA, Tensor expert_TA, Tensor score_TA, int64_t num_experts,
                   int64_t num_scopes, int64_t capacity, DropOrder order);
  // count (E + 1) f64 += how often each expert occurs in kept_TA; the last entry counts the -1s.
  void expert_load(Queue q, Tensor count_E1, Tensor kept_TA);

  // ---- Dispatch: rows to the ranks that hold their experts (model/moe/dispatcher.h) ----
  // Expert j lives on peer j / experts_per_peer. A token sends one row to each peer that
  // holds at least one of its kept experts; rows are ordered by peer, then token.
  //   send_row (T, P) i32: row of token t for peer p, or -1.   send_token (T * min(A, P)) i32: its
  //   inverse; entries past the last row are -1.   counts (2, P) i32: rows per peer, and choices
  //   (token-expert pairs) per peer.
  void plan_send(Queue q, Tensor send_row_TP, Tensor send_token, Tensor counts_2P, Tensor kept_TA,
                 int64_t experts_per_peer);
  // Fills the rows of the send buffer, (N, dispatch_row_bytes) u8. send_token is cut to N.
  void pack_rows(Queue q, Tensor rows_NB, Tensor x_TD, Tensor weight_TA, Tensor kept_TA,
                 Tensor send_token_N, Tensor send_row_TP, int64_t experts_per_peer);
  // From N received rows of A slots each: expert rows grouped by local expert, in received order.
  //   begin (L + 1) i32, source_row (R) i32: received row of each expert row, gate (R) acc,
  //   row_of_choice (N, A) i32: expert row of slot a, or -1.
  void plan_receive(Queue q, Tensor begin_L1, Tensor source_row_R, Tensor gate_R,
                    Tensor row_of_choice_NA, Tensor rows_NB, int64_t model_width, DType real);
  // x[r] = hidden state of received row source_row[r].
  void unpack_rows(Queue q, Tensor x_RD, Tensor rows_NB, Tensor source_row_R);
  // out[n] = sum of the rows in[index[n, j]] over j with index >= 0, in ascending order of index
  // (which is ascending order of expert, and of peer).
  void combine_rows(Queue q, Tensor out_ND, Tensor in_RD, Tensor index_NJ);
  void gather_rows(Queue q, Tensor out_RD, Tensor in_ND, Tensor index_R);  // out[r] = in[index[r]]
  // slots[n, a] = value[index[n, a]], 0 where the index is -1. Both are acc.
  void gather_slots(Queue q, Tensor slots_NA, Tensor value_R, Tensor index_NA);
  // The way back of the gradient: rows (N, gradient_row_bytes) u8 = [dx | dgate].
  void pack_row_gradients(Queue q, Tensor rows_NB, Tensor dx_ND, Tensor dgate_NA);
  // dx[t] = sum over peers, ascending; dweight[t,a] = what the peer of kept[t,a] returned, 0 if -1.
  void unpack_row_gradients(Queue q, Tensor dx_TD, Tensor dweight_TA, Tensor rows_NB,
                            Tensor send_row_TP, Tensor kept_TA, int64_t experts_per_peer);

  // ---- Loss ----
  // Softmax cross-entropy over a vocabulary of which each of P ranks holds a slice: logits_TV (acc)
  // are those of the ids [first_id, first_id + V). V may be 0. Three parts, for a gather in
  // between:
  //   statistics_T3 f64: max, sum exp(logit - max), logit of the target (-infinity if not here).
  void softmax_statistics(Queue q, Tensor statistics_T3, Tensor logits_TV, Tensor target_T,
                          int64_t first_id, int64_t vocab_size);
  // loss_sum (1) f64 += sum over rows [first_row, first_row + num_rows) whose target is not
  // kIgnoredTarget of -log softmax(logits)[target], from the statistics of all ranks.
  void cross_entropy_loss(Queue q, Tensor loss_sum, Tensor statistics_PT3, Tensor target_T,
                          int64_t first_row, int64_t num_rows);
  // logits are overwritten with d(mean loss)/d(logits) = (softmax - onehot) * kInverseTargetCount,
  // zero rows where the target is ignored.
  void cross_entropy_gradient(Queue q, Tensor logits_TV, Tensor statistics_PT3, Tensor target_T,
                              int64_t first_id, Tensor scalars);

  // ---- Optimizer (everything flat) ----
  void squared_norm_add(Queue q, Tensor sum, Tensor x);  // sum (1) f64 += sum of squares
  // From each rank's sum of squares and its sum of losses, (P, 2) f64, both summed in order:
  // kGradNorm = sqrt(squares), kLoss = losses * kInverseTargetCount, kClipCoefficient =
  // min(1, max_norm / (norm + 1e-6)) or 1 if max_norm == 0, kSkipStep = norm or loss is not finite,
  // or the loss is above kLossLimit.
  void clip_coefficient(Queue q, Tensor scalars, Tensor norm_and_loss_P2, double max_norm);
  // AdamW (arXiv 1711.05101) on a flat range; g = gradient * kClipCoefficient:
  //   m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2;
  //   w -= lr * (m / c1 / (sqrt(v / c2) + eps) + weight_decay * w).   Nothing when kSkipStep.
  // weight, m, v and gradient are f32 or f64. With a master copy in f32, `rounded_weight` is the
  // bf16 weight that receives the rounded result; none without.
  void adamw(Queue q, Tensor weight, Tensor rounded_weight, Tensor m, Tensor v, Tensor gradient,
             Tensor scalars, double beta1, double beta2, double eps, double weight_decay);

  // ---- Elementwise ----
  void fill(Queue q, Tensor x, double value);
  void copy(Queue q, Tensor y, Tensor x);           // same dtype, same number of elements
  void convert(Queue q, Tensor y, Tensor x);        // between reals; f64 to bf16 through f32
  void add(Queue q, Tensor y, Tensor a, Tensor b);  // y = a + b; y may be a or b
  // x[n, m] = std * normal number (first_index + n * row_stride + m) of the stream `key`
  // (core/random.h).
  void init_normal(Queue q, Tensor x_NM, double std, uint64_t key, int64_t first_index,
                   int64_t row_stride);
  // sum (1) i64 += digest_term (core/digest.h) of the elements of x, of any dtype, where x[n, m] is
  // element first_index + n * row_stride + m of a tensor; modulo 2^64.
  void digest_add(Queue q, Tensor sum, Tensor x_NM, int64_t first_index, int64_t row_stride);

 private:
  // One per public function, called after its shapes have been checked.
  virtual void do_matmul_nt(Queue q, Tensor y_TN, Tensor x_TK, Tensor w_NK) = 0;
  virtual void do_matmul_nn(Queue q, Tensor x_TK, Tensor y_TN, Tensor w_NK) = 0;
  virtual void do_matmul_nn_add(Queue q, Tensor x_TK, Tensor y_TN, Tensor w_NK) = 0;
  virtual void do_matmul_tn_add(Queue q, Tensor w_NK, Tensor y_TN, Tensor x_TK) = 0;
  virtual void do_grouped_matmul_nt(Queue q, Tensor y_RN, Tensor x_RK, Tensor w_LNK,
                                    Tensor begin_L1) = 0;
  virtual void do_grouped_matmul_nn(Queue q, Tensor x_RK, Tensor y_RN, Tensor w_LNK,
                                    Tensor begin_L1) = 0;
  virtual void do_grouped_matmul_nn_add(Queue q, Tensor x_RK, Tensor y_RN, Tensor w_LNK,
                                        Tensor begin_L1) = 0;
  virtual void do_grouped_matmul_tn_add(Queue q, Tensor w_LNK, Tensor y_RN, Tensor x_RK,
                                        Tensor begin_L1) = 0;
  virtual void do_embedding_forward(Queue q, Tensor y_TD, Tensor table_VD, Tensor ids_T,
                                    int64_t first_id, int64_t vocab_size) = 0;
  virtual void do_embedding_backward(Queue q, Tensor dtable_VD, Tensor dy_TD, Tensor ids_T,
                                     int64_t first_id, int64_t vocab_size) = 0;
  virtual void do_rmsnorm_forward(Queue q, Tensor y_TD, Tensor sum_TD, Tensor inv_rms_T,
                                  Tensor x_TD, Tensor delta_TD, Tensor weight_D, double eps) = 0;
  virtual void do_rmsnorm_backward(Queue q, Tensor dx_TD, Tensor dy_TD, Tensor dresidual_TD,
                                   Tensor x_TD, Tensor inv_rms_T, Tensor weight_D) = 0;
  virtual void do_rmsnorm_weight_backward(Queue q, Tensor dweight_D, Tensor dy_TD, Tensor x_TD,
                                          Tensor inv_rms_T) = 0;
  virtual void do_rope_forward(Queue q, Tensor x_THC, Tensor position_T, int64_t head_dim,
                               double theta) = 0;
  virtual void do_rope_backward(Queue q, Tensor dx_THC, Tensor position_T, int64_t head_dim,
                                double theta) = 0;
  virtual void do_attention_forward(Queue q, Tensor out_THC, Tensor log_sum_exp_TH,
                                    Tensor query_THC, Tensor key_TKC, Tensor value_TKC,
                                    Tensor first_visible_T, int64_t head_dim,
                                    int64_t sequence_length) = 0;
  virtual void do_attention_backward(Queue q, Tensor dquery_THC, Tensor dkey_TKC, Tensor dvalue_TKC,
                                     Tensor dout_THC, Tensor out_THC, Tensor log_sum_exp_TH,
                                     Tensor query_THC, Tensor key_TKC, Tensor value_TKC,
                                     Tensor first_visible_T, int64_t head_dim,
                                     int64_t sequence_length) = 0;
  virtual void do_activation_forward(Queue q, Tensor y_RF, Tensor gate_RF, Tensor up_RF,
                                     Tensor weight_R, Activation activation) = 0;
  virtual void do_activation_backward(Queue q, Tensor dgate_RF, Tensor dup_RF, Tensor dweight_R,
                                      Tensor dy_RF, Tensor gate_RF, Tensor up_RF, Tensor weight_R,
                                      Activation activation) = 0;
  virtual void do_router_forward(Queue q, Tensor probs_TE, Tensor lse_T, Tensor expert_TA,
                                 Tensor score_TA, Tensor weight_TA, Tensor z_sum,
                                 Tensor entropy_sum, Tensor logits_TE, Tensor bias_E,
                                 const RouterRule& rule, bool expert_is_given) = 0;
  virtual void do_router_statistics(Queue q, Tensor count_SE, Tensor prob_sum_SE, Tensor expert_TA,
                                    Tensor probs_TE, RouterScore score, int64_t first_row,
                                    int64_t rows_per_scope) = 0;
  virtual void do_balance_loss(Queue q, Tensor loss_sum, Tensor prob_gradient_SE, Tensor count_SE,
                               Tensor prob_sum_SE, int64_t tokens_per_scope, int64_t counted_tokens,
                               int64_t top_k) = 0;
  virtual void do_router_backward(Queue q, Tensor dlogits_TE, Tensor dweight_TA, Tensor expert_TA,
                                  Tensor weight_TA, Tensor probs_TE, Tensor lse_T, Tensor logits_TE,
                                  Tensor prob_gradient_SE, const RouterRule& rule,
                                  int64_t first_row, int64_t rows_per_scope, double balance_scale,
                                  double z_scale) = 0;
  virtual void do_sinkhorn_costs(Queue q, Tensor cost_TE, Tensor logits_TE) = 0;
  virtual void do_sinkhorn_sums(Queue q, Tensor sum_SE, Tensor factor_SE, Tensor cost_TE,
                                int64_t first_row, int64_t rows_per_scope) = 0;
  virtual void do_sinkhorn_factors(Queue q, Tensor factor_SE, Tensor sum_SE) = 0;
  virtual void do_sinkhorn_choice(Queue q, Tensor expert_TA, Tensor factor_SE, Tensor cost_TE,
                                  int64_t first_row, int64_t rows_per_scope) = 0;
  virtual void do_update_router_bias(Queue q, Tensor bias_E, Tensor count_E1, Tensor scalars,
                                     double rate) = 0;
  virtual void do_balanced_choice(Queue q, Tensor expert_TA, int64_t first_token,
                                  int64_t num_experts) = 0;
  virtual void do_jitter(Queue q, Tensor y_TD, Tensor x_TD, double eps, uint64_t key,
                         uint64_t stream, int64_t first_row) = 0;
  virtual void do_drop_tokens(Queue q, Tensor kept_TA, Tensor expert_TA, Tensor score_TA,
                              int64_t num_experts, int64_t num_scopes, int64_t capacity,
                              DropOrder order) = 0;
  virtual void do_expert_load(Queue q, Tensor count_E1, Tensor kept_TA) = 0;
  virtual void do_plan_send(Queue q, Tensor send_row_TP, Tensor send_token, Tensor counts_2P,
                            Tensor kept_TA, int64_t experts_per_peer) = 0;
  virtual void do_pack_rows(Queue q, Tensor rows_NB, Tensor x_TD, Tensor weight_TA, Tensor kept_TA,
                            Tensor send_token_N, Tensor send_row_TP, int64_t experts_per_peer) = 0;
  virtual void do_plan_receive(Queue q, Tensor begin_L1, Tensor source_row_R, Tensor gate_R,
                               Tensor row_of_choice_NA, Tensor rows_NB, int64_t model_width,
                               DType real) = 0;
  virtual void do_unpack_rows(Queue q, Tensor x_RD, Tensor rows_NB, Tensor source_row_R) = 0;
  virtual void do_combine_rows(Queue q, Tensor out_ND, Tensor in_RD, Tensor index_NJ) = 0;
  virtual void do_gather_rows(Queue q, Tensor out_RD, Tensor in_ND, Tensor index_R) = 0;
  virtual void do_gather_slots(Queue q, Tensor slots_NA, Tensor value_R, Tensor index_NA) = 0;
  virtual void do_pack_row_gradients(Queue q, Tensor rows_NB, Tensor dx_ND, Tensor dgate_NA) = 0;
  virtual void do_unpack_row_gradients(Queue q, Tensor dx_TD, Tensor dweight_TA, Tensor rows_NB,
                                       Tensor send_row_TP, Tensor kept_TA,
                                       int64_t experts_per_peer) = 0;
  virtual void do_softmax_statistics(Queue q, Tensor statistics_T3, Tensor logits_TV,
                                     Tensor target_T, int64_t first_id, int64_t vocab_size) = 0;
  virtual void do_cross_entropy_loss(Queue q, Tensor loss_sum, Tensor statistics_PT3,
                                     Tensor target_T, int64_t first_row, int64_t num_rows) = 0;
  virtual void do_cross_entropy_gradient(Queue q, Tensor logits_TV, Tensor statistics_PT3,
                                         Tensor target_T, int64_t first_id, Tensor scalars) = 0;
  virtual void do_squared_norm_add(Queue q, Tensor sum, Tensor x) = 0;
  virtual void do_clip_coefficient(Queue q, Tensor scalars, Tensor norm_and_loss_P2,
                                   double max_norm) = 0;
  virtual void do_adamw(Queue q, Tensor weight, Tensor rounded_weight, Tensor m, Tensor v,
                        Tensor gradient, Tensor scalars, double beta1, double beta2, double eps,
                        double weight_decay) = 0;
  virtual void do_fill(Queue q, Tensor x, double value) = 0;
  virtual void do_copy(Queue q, Tensor y, Tensor x) = 0;
  virtual void do_convert(Queue q, Tensor y, Tensor x) = 0;
  virtual void do_add(Queue q, Tensor y, Tensor a, Tensor b) = 0;
  virtual void do_init_normal(Queue q, Tensor x_NM, double std, uint64_t key, int64_t first_index,
                              int64_t row_stride) = 0;
  virtual void do_digest_add(Queue q, Tensor sum, Tensor x_NM, int64_t first_index,
                             int64_t row_stride) = 0;
};

}  // namespace switchyard
