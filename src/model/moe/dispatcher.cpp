#include "model/moe/dispatcher.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "backend/ops.h"
#include "core/math.h"

namespace switchyard {

Dispatcher::Dispatcher(Backend& backend, const ProcessGrid& grid, const RunConfig& config)
    : backend_(backend),
      ep_(grid.ep()),
      etp_(grid.etp()),
      model_width_(config.model.hidden_size),
      experts_per_peer_(div_exact(config.moe.num_experts, ep_.size())),
      top_k_(config.moe.top_k),
      max_received_factor_(config.moe.max_received_tokens_factor),
      balanced_share_(static_cast<double>(grid.sizes().etp) / grid.sizes().tp) {}

void Dispatcher::plan(Pass& pass, Tensor kept_TA, Tensor weight_TA, Plan& plan) const {
  plan.weight_TA = weight_TA;
  if (pass.recomputing) return;
  const int64_t T = kept_TA.dim(0), P = ep_.size();
  plan.kept_TA = kept_TA;
  plan.send_row_TP = pass.kept.allocate(DType::kI32, {T, P});
  Tensor send_token = pass.kept.allocate(DType::kI32, {T * std::min(top_k_, P)});
  std::vector<int32_t> counts(static_cast<size_t>(2 * P));
  {
    Arena::Scope scope(pass.scratch);
    Tensor counts_2P = pass.scratch.allocate(DType::kI32, {2, P});
    backend_.ops().plan_send(pass.queue, plan.send_row_TP, send_token, counts_2P, kept_TA,
                             experts_per_peer_);
    backend_.download(pass.queue, counts.data(), counts_2P);
    backend_.host_wait(backend_.record(pass.queue));
  }
  // For each peer: how many rows, and how many (token, expert) pairs they stand for.
  std::vector<int64_t> send_counts;
  plan.send_rows.assign(counts.begin(), counts.begin() + P);
  for (int64_t p = 0; p < P; ++p)
    send_counts.insert(send_counts.end(),
                       {counts[static_cast<size_t>(p)], counts[static_cast<size_t>(P + p)]});
  const std::vector<int64_t> receive_counts = ep_.all_to_all_host(send_counts);
  plan.receive_rows.clear();
  int64_t my_rows = 0, my_expert_rows = 0;
  for (size_t p = 0; p < static_cast<size_t>(P); ++p) {
    plan.receive_rows.push_back(receive_counts[2 * p]);
    my_rows += receive_counts[2 * p];
    my_expert_rows += receive_counts[2 * p + 1];
  }
  add_up_slices(my_rows, my_expert_rows, plan);
  const int64_t num_sent =
      std::accumulate(plan.send_rows.begin(), plan.send_rows.end(), int64_t{0});
  plan.send_token_N = send_token.rows(0, num_sent);
  check_received(pass, plan.num_expert_rows);
}

// What the etp ranks received: all of them work on all of it.
void Dispatcher::add_up_slices(int64_t my_rows, int64_t my_expert_rows, Plan& plan) const {
  std::vector<int64_t> counts;
  for (int x = 0; x < etp_.size(); ++x) counts.insert(counts.end(), {my_rows, my_expert_rows});
  counts = etp_.all_to_all_host(counts);
  plan.slice_rows.clear();
  plan.num_received = plan.num_expert_rows = 0;
  for (size_t x = 0; x < counts.size(); x += 2) {
    plan.slice_rows.push_back(counts[x]);
    plan.num_received += counts[x];
    plan.num_expert_rows += counts[x + 1];
  }
}

Tensor Dispatcher::dispatch(Pass& pass, Tensor x_TD, Plan& plan) {
  Ops& ops = backend_.ops();
  const DType real = x_TD.dtype();
  if (!pass.recomputing) {
    plan.expert_begin_L1 = pass.kept.allocate(DType::kI32, {experts_per_peer_ + 1});
    plan.source_row_R = pass.kept.allocate(DType::kI32, {plan.num_expert_rows});
    plan.gate_R = pass.kept.allocate(accumulator_of(real), {plan.num_expert_rows});
    plan.row_of_choice_MA = pass.kept.allocate(DType::kI32, {plan.num_received, top_k_});
  }
  Tensor in_RD = pass.activations.allocate(real, {plan.num_expert_rows, model_width_});

  Arena::Scope scope(pass.scratch);
  const int64_t row_bytes = dispatch_row_bytes(model_width_, top_k_, real);
  Tensor sent = pass.scratch.allocate(DType::kU8, {plan.send_token_N.dim(0), row_bytes});
  Tensor received = pass.scratch.allocate(DType::kU8, {plan.num_received, row_bytes});
  ops.pack_rows(pass.queue, sent, x_TD, plan.weight_TA, plan.kept_TA, plan.send_token_N,
                plan.send_row_TP, experts_per_peer_);
  exchange(pass, my_slice(plan, received), plan.receive_rows, sent, plan.send_rows);
  gather_slices(pass, plan, received);
  if (!pass.recomputing)
    ops.plan_receive(pass.queue, plan.expert_begin_L1, plan.source_row_R, plan.gate_R,
                     plan.row_of_choice_MA, received, model_width_, real);
  ops.unpack_rows(pass.queue, in_RD, received, plan.source_row_R);
  return in_RD;
}

void Dispatcher::combine(Pass& pass, Tensor y_TD, Tensor out_RD, const Plan& plan) {
  Ops& ops = backend_.ops();
  const DType real = out_RD.dtype();
  Arena::Scope scope(pass.scratch);
  Tensor summed_MD = pass.scratch.allocate(real, {plan.num_received, model_width_});
  Tensor returned_ND = pass.scratch.allocate(real, {plan.send_token_N.dim(0), model_width_});
  ops.combine_rows(pass.queue, summed_MD, out_RD, plan.row_of_choice_MA);
  sum_slices(pass, plan, summed_MD);
  exchange(pass, returned_ND, plan.send_rows, my_slice(plan, summed_MD), plan.receive_rows);
  ops.combine_rows(pass.queue, y_TD, returned_ND, plan.send_row_TP);
}

Tensor Dispatcher::combine_backward(Pass& pass, Tensor dy_TD, const Plan& plan) {
  Ops& ops = backend_.ops();
  const DType real = dy_TD.dtype();
  Tensor dout_RD = pass.scratch.allocate(real, {plan.num_expert_rows, model_width_});
  Arena::Scope scope(pass.scratch);
  Tensor sent_ND = pass.scratch.allocate(real, {plan.send_token_N.dim(0), model_width_});
  Tensor received_MD = pass.scratch.allocate(real, {plan.num_received, model_width_});
  ops.gather_rows(pass.queue, sent_ND, dy_TD, plan.send_token_N);
  exchange(pass, my_slice(plan, received_MD), plan.receive_rows, sent_ND, plan.send_rows);
  gather_slices(pass, plan, received_MD);
  ops.gather_rows(pass.queue, dout_RD, received_MD, plan.source_row_R);
  return dout_RD;
}

Dispatcher::InputGradient Dispatcher::dispatch_backward(Pass& pass, Tensor dx_RD, Tensor dgate_R,
                                                        const Plan& plan) {
  Ops& ops = backend_.ops();
  const DType real = dx_RD.dtype();
  InputGradient gradient;
  gradient.dx_TD = pass.scratch.allocate(real, {plan.kept_TA.dim(0), model_width_});
  gradient.dweight_TA = pass.scratch.allocate_like(plan.weight_TA);

  Arena::Scope scope(pass.scratch);
  const int64_t row_bytes = gradient_row_bytes(model_width_, top_k_, real);
  Tensor returned = pass.scratch.allocate(DType::kU8, {plan.send_token_N.dim(0), row_bytes});
  Tensor dsum_MD = pass.scratch.allocate(real, {plan.num_received, model_width_});
  Tensor dgate_MA = pass.scratch.allocate(dgate_R.dtype(), {plan.num_received, top_k_});
  ops.combine_rows(pass.queue, dsum_MD, dx_RD, plan.row_of_choice_MA);
  ops.gather_slots(pass.queue, dgate_MA, dgate_R, plan.row_of_choice_MA);
  sum_slices(pass, plan, dsum_MD);
  sum_slices(pass, plan, dgate_MA);
  const Tensor mine_MD = my_slice(plan, dsum_MD);
  Tensor sent = pass.scratch.allocate(DType::kU8, {mine_MD.dim(0), row_bytes});
  ops.pack_row_gradients(pass.queue, sent, mine_MD, my_slice(plan, dgate_MA));
  exchange(pass, returned, plan.send_rows, sent, plan.receive_rows);
  ops.unpack_row_gradients(pass.queue, gradient.dx_TD, gradient.dweight_TA, returned,
                           plan.send_row_TP, plan.kept_TA, experts_per_peer_);
  return gradient;
}

Tensor Dispatcher::my_slice(const Plan& plan, Tensor received) const {
  const auto me = plan.slice_rows.begin() + etp_.rank();
  return received.rows(std::accumulate(plan.slice_rows.begin(), me, int64_t{0}), *me);
}

void Dispatcher::gather_slices(Pass& pass, const Plan& plan, Tensor received) {
  backend_.wait(pass.queue, etp_.all_gather_rows(received, my_slice(plan, received),
                                                 plan.slice_rows, backend_.record(pass.queue)));
}

void Dispatcher::sum_slices(Pass& pass, const Plan& plan, Tensor received) {
  backend_.wait(pass.queue, etp_.reduce_scatter_rows(my_slice(plan, received), received,
                                                     plan.slice_rows, backend_.record(pass.queue)));
}

Dispatcher::Traffic Dispatcher::take_traffic() { return std::exchange(traffic_, Traffic{}); }

void Dispatcher::exchange(Pass& pass, Tensor out, const std::vector<int64_t>& receive_rows,
                          Tensor input, const std::vector<int64_t>& send_rows) {
  const auto start = std::chrono::steady_clock::now();
  const int64_t bytes_before = ep_.traffic().all_to_all.others.bytes;
  const Event ready = backend_.record(pass.queue);
  backend_.wait(pass.queue, ep_.all_to_all(out, receive_rows, input, send_rows, ready));
  traffic_.bytes += ep_.traffic().all_to_all.others.bytes - bytes_before;
  traffic_.seconds +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Dispatcher::check_received(const Pass& pass, int64_t expert_rows) const {
  if (max_received_factor_ <= 0) return;
  const double balanced = balanced_share_ * static_cast<double>(pass.batch.num_tokens() * top_k_);
  SY_REQUIRE(kNumeric, static_cast<double>(expert_rows) <= max_received_factor_ * balanced,
             "this rank received {} expert rows, {:.2f} times its share of {:.0f} under perfect "
             "balance; moe.max_received_tokens_factor allows {}. Routing is skewed: raise "
             "moe.load_balancing_loss_coef, use token_drop_policy \"capacity\", or raise the bound",
             expert_rows, static_cast<double>(expert_rows) / balanced, balanced,
             max_received_factor_);
}

}  // namespace switchyard
