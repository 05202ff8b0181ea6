// Dispatcher: takes tokens to the ranks that hold their experts, and results back.
//
// One all-to-all over the ep communicator each way, forward and backward:
//   dispatch   a token travels once per *rank* that holds any of its experts, with its gate weights
//              and expert ids; the receiver sorts rows by expert
//   combine    the receiver sums the (already weighted) outputs of its experts for a token in
//              ascending expert order and returns one row; the token's owner sums over ranks in
//              ascending order
//   backward   of combine sends output gradients the way of dispatch; of dispatch returns input
//              gradients and gate-weight gradients the way of combine. The plan is made once.
// The number of rows must reach the host to size the exchange: the one host exchange of a layer.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "config/run_config.h"
#include "model/pass.h"

namespace switchyard {

class Dispatcher {
 public:
  // Where the rows of one micro-batch go. Made once per layer and micro-batch; used by dispatch,
  // experts, combine and all three backwards. Device tensors live in Pass::activations.
  struct Plan {
    Tensor kept_TA;       // i32: experts of each token, -1 where dropped
    Tensor weight_TA;     // real: gate weights
    Tensor send_row_TP;   // i32: row of token t in the send buffer for peer p, or -1
    Tensor send_token_N;  // i32: token of each row of the send buffer
    std::vector<int64_t> send_rows, receive_rows;  // host: rows to and from each peer
    int64_t num_received = 0;                      // rows of the receive buffer, M
    int64_t num_expert_rows = 0;                   // R
    Tensor expert_begin_L1;   // i32: my expert e owns expert rows [begin[e], begin[e+1])
    Tensor source_row_R;      // i32: received row of each expert row
    Tensor row_of_choice_MA;  // i32: expert row of slot a of a received row, or -1
    Tensor gate_R;            // real: gate weight of each expert row
  };

  // Time and payload of the all-to-alls, for the metrics.
  struct Traffic {
    double seconds = 0;
    int64_t bytes = 0;  // sent to other ranks
  };

  Dispatcher(Backend& backend, Communicator& ep, const RunConfig& config);

  void plan(Pass& pass, Tensor kept_TA, Tensor weight_TA, Plan& plan) const;
  // (R, D): the hidden states for my experts, grouped by expert. Completes the plan.
  Tensor dispatch(Pass& pass, Tensor x_TD, Plan& plan);
  // (T, D): from the weighted outputs of my experts (R, D).
  Tensor combine(Pass& pass, Tensor out_RD, const Plan& plan);

  struct InputGradient {
    Tensor dx_TD, dweight_TA;
  };
  // Mirrors: combine_backward gives (R, D) in scratch; dispatch_backward what reaches the tokens.
  Tensor combine_backward(Pass& pass, Tensor dy_TD, const Plan& plan);
  InputGradient dispatch_backward(Pass& pass, Tensor dx_RD, Tensor dgate_R, const Plan& plan);

  // Since the last call.
  Traffic take_traffic();

 private:
  void exchange(Pass& pass, Tensor out, const std::vector<int64_t>& receive_rows, Tensor input,
                const std::vector<int64_t>& send_rows);
  void check_received(const Pass& pass, int64_t expert_rows) const;

  Backend& backend_;
  Communicator& ep_;
  int64_t model_width_, num_experts_, experts_per_peer_, top_k_;
  double max_received_factor_;
  Traffic traffic_;
};

}  // namespace switchyard
