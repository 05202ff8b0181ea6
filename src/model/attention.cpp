#include "model/attention.h"

#include "backend/ops.h"
#include "core/math.h"

namespace switchyard {
namespace {

// Key or value projection: cut over the tp ranks or, where there are fewer heads than ranks, one
// head each, which tp / K neighbours share.
Parameter key_value_weight(const std::string& name, const ModelConfig& config,
                           const TensorParallel& tp) {
  const int heads = *config.num_key_value_heads;
  const int64_t outputs = heads * *config.head_dim;
  if (tp.size() <= heads)
    return column_parallel(name, outputs, config.hidden_size, tp.rank(), tp.size());
  Parameter weight =
      column_parallel(name, outputs, config.hidden_size, tp.rank() * heads / tp.size(), heads);
  weight.copies = Copies::kKeyValue;
  weight.is_partial = true;  // each rank's query heads give their part
  return weight;
}

}  // namespace

Attention::Attention(Backend& backend, const TensorParallel& tp, const std::string& name,
                     const ModelConfig& config, bool recompute_core)
    : backend_(backend),
      tp_(tp),
      num_heads_(div_exact(config.num_attention_heads, tp.size())),
      head_dim_(*config.head_dim),
      rope_theta_(config.rope_theta),
      recompute_core_(recompute_core),
      query_proj_(backend,
                  column_parallel(name + ".q_proj.weight", config.num_attention_heads * head_dim_,
                                  config.hidden_size, tp.rank(), tp.size())),
      key_proj_(backend, key_value_weight(name + ".k_proj.weight", config, tp)),
      value_proj_(backend, key_value_weight(name + ".v_proj.weight", config, tp)),
      output_proj_(backend,
                   row_parallel(name + ".o_proj.weight", config.hidden_size,
                                config.num_attention_heads * head_dim_, tp.rank(), tp.size())) {}

Tensor Attention::forward(Pass& pass, Tensor x_TD, Saved& saved) const {
  Ops& ops = backend_.ops();
  const Tensor positions = pass.batch.positions;
  const Tensor all_TD = tp_.gather(pass, pass.activations, x_TD);
  saved.query_THC = query_proj_.forward(pass, all_TD, saved.query_proj);
  saved.key_TKC = key_proj_.forward(pass, all_TD, saved.key_proj);
  saved.value_TKC = value_proj_.forward(pass, all_TD, saved.value_proj);
  ops.rope_forward(pass.queue, saved.query_THC, positions, head_dim_, rope_theta_);
  ops.rope_forward(pass.queue, saved.key_TKC, positions, head_dim_, rope_theta_);

  Tensor y_TD = pass.activations.allocate_like(x_TD);
  Arena::Scope scope(pass.scratch);
  attend(pass, recompute_core_ ? pass.scratch : pass.activations, saved);
  const Tensor partial_TD = tp_.partial_sums(pass, pass.scratch, y_TD);
  output_proj_.forward_into(pass, partial_TD, saved.out_THC, saved.output_proj);
  if (recompute_core_) saved.out_THC = saved.log_sum_exp_TH = saved.output_proj.x_TK = Tensor();
  tp_.reduce(pass, y_TD, partial_TD);
  return y_TD;
}

Tensor Attention::backward(Pass& pass, Tensor dy_TD, const Saved& saved_by_forward) {
  Ops& ops = backend_.ops();
  const MicroBatch& batch = pass.batch;
  Tensor dx_TD = pass.scratch.allocate_like(dy_TD);
  Arena::Scope scope(pass.scratch);
  Saved saved = saved_by_forward;
  if (recompute_core_) {
    attend(pass, pass.saved_in_backward(), saved);
    saved.output_proj.x_TK = saved.out_THC;
  }
  const Tensor dpartial_TD = tp_.gather(pass, pass.scratch, dy_TD);
  Tensor dout_THC = output_proj_.backward(pass, dpartial_TD, saved.output_proj);

  Tensor dquery_THC = pass.scratch.allocate_like(saved.query_THC);
  Tensor dkey_TKC = pass.scratch.allocate_like(saved.key_TKC);
  Tensor dvalue_TKC = pass.scratch.allocate_like(saved.value_TKC);
  ops.attention_backward(pass.queue, dquery_THC, dkey_TKC, dvalue_TKC, dout_THC, saved.out_THC,
                         saved.log_sum_exp_TH, saved.query_THC, saved.key_TKC, saved.value_TKC,
                         batch.first_visible, head_dim_, batch.sequence_length);
  ops.rope_backward(pass.queue, dkey_TKC, batch.positions, head_dim_, rope_theta_);
  ops.rope_backward(pass.queue, dquery_THC, batch.positions, head_dim_, rope_theta_);

  const Tensor dall_TD = tp_.partial_sums(pass, pass.scratch, dx_TD);
  value_proj_.backward_into(pass, dall_TD, dvalue_TKC, saved.value_proj);
  key_proj_.backward_add(pass, dall_TD, dkey_TKC, saved.key_proj);
  query_proj_.backward_add(pass, dall_TD, dquery_THC, saved.query_proj);
  tp_.reduce(pass, dx_TD, dall_TD);
  return dx_TD;
}

void Attention::attend(Pass& pass, Arena& arena, Saved& saved) const {
  const MicroBatch& batch = pass.batch;
  saved.out_THC = arena.allocate_like(saved.query_THC);
  saved.log_sum_exp_TH =
      arena.allocate(accumulator_of(saved.query_THC.dtype()), {batch.num_tokens(), num_heads_});
  backend_.ops().attention_forward(pass.queue, saved.out_THC, saved.log_sum_exp_TH, saved.query_THC,
                                   saved.key_TKC, saved.value_TKC, batch.first_visible, head_dim_,
                                   batch.sequence_length);
}

void Attention::append_parameters(ParameterList& list) {
  for (Linear* linear : {&query_proj_, &key_proj_, &value_proj_, &output_proj_})
    list.push_back(&linear->weight());
}

}  // namespace switchyard
