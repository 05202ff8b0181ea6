#include "model/attention.h"

#include "backend/ops.h"

namespace switchyard {

Attention::Attention(Backend& backend, const std::string& name, const ModelConfig& config)
    : backend_(backend),
      num_heads_(config.num_attention_heads),
      head_dim_(*config.head_dim),
      rope_theta_(config.rope_theta),
      query_proj_(backend, name + ".q_proj.weight", num_heads_ * head_dim_, config.hidden_size),
      key_proj_(backend, name + ".k_proj.weight", *config.num_key_value_heads * head_dim_,
                config.hidden_size),
      value_proj_(backend, name + ".v_proj.weight", *config.num_key_value_heads * head_dim_,
                  config.hidden_size),
      output_proj_(backend, name + ".o_proj.weight", config.hidden_size, num_heads_ * head_dim_) {}

Tensor Attention::forward(Pass& pass, Tensor x_TD, Saved& saved) const {
  Ops& ops = backend_.ops();
  const MicroBatch& batch = pass.batch;
  saved.query_THC = query_proj_.forward(pass, x_TD, saved.query_proj);
  saved.key_TKC = key_proj_.forward(pass, x_TD, saved.key_proj);
  saved.value_TKC = value_proj_.forward(pass, x_TD, saved.value_proj);
  ops.rope_forward(pass.queue, saved.query_THC, batch.positions, head_dim_, rope_theta_);
  ops.rope_forward(pass.queue, saved.key_TKC, batch.positions, head_dim_, rope_theta_);

  saved.out_THC = pass.activations.allocate_like(saved.query_THC);
  saved.log_sum_exp_TH = pass.activations.allocate(x_TD.dtype(), {x_TD.dim(0), num_heads_});
  ops.attention_forward(pass.queue, saved.out_THC, saved.log_sum_exp_TH, saved.query_THC,
                        saved.key_TKC, saved.value_TKC, batch.first_visible, head_dim_,
                        batch.sequence_length);
  return output_proj_.forward(pass, saved.out_THC, saved.output_proj);
}

Tensor Attention::backward(Pass& pass, Tensor dy_TD, const Saved& saved) {
  Ops& ops = backend_.ops();
  const MicroBatch& batch = pass.batch;
  Tensor dx_TD = pass.scratch.allocate_like(dy_TD);
  Arena::Scope scope(pass.scratch);
  Tensor dout_THC = output_proj_.backward(pass, dy_TD, saved.output_proj);

  Tensor dquery_THC = pass.scratch.allocate_like(saved.query_THC);
  Tensor dkey_TKC = pass.scratch.allocate_like(saved.key_TKC);
  Tensor dvalue_TKC = pass.scratch.allocate_like(saved.value_TKC);
  ops.attention_backward(pass.queue, dquery_THC, dkey_TKC, dvalue_TKC, dout_THC, saved.out_THC,
                         saved.log_sum_exp_TH, saved.query_THC, saved.key_TKC, saved.value_TKC,
                         batch.first_visible, head_dim_, batch.sequence_length);
  ops.rope_backward(pass.queue, dkey_TKC, batch.positions, head_dim_, rope_theta_);
  ops.rope_backward(pass.queue, dquery_THC, batch.positions, head_dim_, rope_theta_);

  ops.fill(pass.queue, dx_TD, 0.0);
  value_proj_.backward_add(pass, dx_TD, dvalue_TKC, saved.value_proj);
  key_proj_.backward_add(pass, dx_TD, dkey_TKC, saved.key_proj);
  query_proj_.backward_add(pass, dx_TD, dquery_THC, saved.query_proj);
  return dx_TD;
}

void Attention::append_parameters(ParameterList& list) {
  for (Linear* linear : {&query_proj_, &key_proj_, &value_proj_, &output_proj_})
    list.push_back(&linear->weight());
}

}  // namespace switchyard
