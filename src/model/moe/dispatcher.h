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
// With expert tensor parallelism, ranks that share an expert's matrices gather the rows of each
// other (all-gather over etp) after the all-to-all, and add up their partial results
// (reduce-scatter over etp) before the one back; so too in the backward, for input gradients and
// gate-weight gradients. The number of rows must reach the host to size the exchange: the one host
// exchange of a layer.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "model/pass.h"

namespace switchyard {

class Dispatcher {
 public:
  // Where the rows of one micro-batch go. Made once per layer and micro-batch; used by dispatch,
  // experts, combine, all three backwards and, if need be, a second forward that computes
  // activations again. Device tensors live in Pass::kept.
  struct Plan {
    Tensor kept_TA;       // i32: experts of each token, -1 where dropped
    Tensor weight_TA;     // gate weights
    Tensor send_row_TP;   // i32: row of token t in the send buffer for peer p, or -1
    Tensor send_token_N;  // i32: token of each row of the send buffer
    std::vector<int64_t> send_rows, receive_rows;  // host: rows to and from each ep peer
    std::vector<int64_t> slice_rows;               // host: rows that each etp rank received
    int64_t num_received = 0;                      // rows of all etp ranks together, M
    int64_t num_expert_rows = 0;                   // R
    Tensor expert_begin_L1;   // i32: my expert e owns expert rows [begin[e], begin[e+1])
    Tensor source_row_R;      // i32: received row of each expert row
    Tensor row_of_choice_MA;  // i32: expert row of slot a of a received row, or -1
    Tensor gate_R;            // gate weight of each expert row
  };

  // Time and payload of the all-to-alls, for the metrics.
  struct Traffic {
    double seconds = 0;
    int64_t bytes = 0;  // sent to other ranks
  };

  Dispatcher(Backend& backend, const ProcessGrid& grid, const RunConfig& config);

  // Completes nothing but the gate weights when it is a second forward.
  void plan(Pass& pass, Tensor kept_TA, Tensor weight_TA, Plan& plan) const;
  // (R, D): the hidden states for my experts, grouped by expert. Completes the plan.
  Tensor dispatch(Pass& pass, Tensor x_TD, Plan& plan);
  // y (T, D), from the weighted outputs of my experts (R, D).
  void combine(Pass& pass, Tensor y_TD, Tensor out_RD, const Plan& plan);

  struct InputGradient {
    Tensor dx_TD, dweight_TA;
  };
  // Mirrors: combine_backward gives (R, D) in scratch; dispatch_backward what reaches the tokens.
  Tensor combine_backward(Pass& pass, Tensor dy_TD, const Plan& plan);
  InputGradient dispatch_backward(Pass& pass, Tensor dx_RD, Tensor dgate_R, const Plan& plan);

  // Since the last call.
  Traffic take_traffic();

 private:
  void add_up_slices(int64_t my_rows, int64_t my_expert_rows, Plan& plan) const;
  // The rows of a tensor over all M received rows that this rank received itself.
  Tensor my_slice(const Plan& plan, Tensor received) const;
  void gather_slices(Pass& pass, const Plan& plan, Tensor received);
  void sum_slices(Pass& pass, const Plan& plan, Tensor received);
  void exchange(Pass& pass, Tensor out, const std::vector<int64_t>& receive_rows, Tensor input,
                const std::vector<int64_t>& send_rows);
  void check_received(const Pass& pass, int64_t expert_rows) const;

  Backend& backend_;
  Communicator& ep_;
  Communicator& etp_;
  int64_t model_width_, experts_per_peer_, top_k_;
  double max_received_factor_;
  double balanced_share_;  // expert rows of this rank under perfect balance, per token and choice
  Traffic traffic_;
};

}  // namespace switchyard
