#include "model/block.h"

#include "backend/ops.h"

namespace switchyard {
namespace {

std::string name_of_layer(int layer) { return fmt::format("model.layers.{}.", layer); }

bool is_selective(const RunConfig& config) {
  return config.activation_checkpointing.policy == RecomputePolicy::kSelective;
}

}  // namespace

Block::Block(Backend& backend, const ProcessGrid& grid, const TensorParallel& tp, int layer,
             const RunConfig& config, std::optional<int> moe_index)
    : backend_(backend),
      layer_(layer),
      recompute_(config.activation_checkpointing.policy == RecomputePolicy::kFull),
      norm1_(backend, tp, name_of_layer(layer) + "input_layernorm.weight", config.model.hidden_size,
             config.model.rms_norm_eps),
      norm2_(backend, tp, name_of_layer(layer) + "post_attention_layernorm.weight",
             config.model.hidden_size, config.model.rms_norm_eps),
      attention_(backend, tp, name_of_layer(layer) + "self_attn", config.model,
                 is_selective(config)) {
  const std::string mlp = name_of_layer(layer) + "mlp";
  if (moe_index)
    moe_.emplace(backend, grid, tp, mlp, config, *moe_index);
  else
    dense_.emplace(backend, tp, mlp, config.model.hidden_size, config.model.intermediate_size,
                   is_selective(config));
}

Tensor Block::forward(Pass& pass, Tensor x_TD, Saved& saved) {
  if (!recompute_ || !pass.training) return forward_layers(pass, x_TD, saved);
  saved.x_TD = x_TD;
  Tensor y_TD = pass.activations.allocate_like(x_TD);
  Arena::Scope forgotten(pass.recomputed);
  Pass inner = pass.with_activations(pass.recomputed);
  backend_.ops().copy(pass.queue, y_TD, forward_layers(inner, x_TD, saved));
  return y_TD;
}

// What the weight gradients need must outlive this block's backward when they are put off.
Tensor Block::backward(Pass& pass, Tensor dy_TD, const Saved& saved) {
  if (!recompute_) return backward_layers(pass, dy_TD, saved);
  Arena::Scope forgotten(pass.recomputed);
  Saved again = saved;
  Pass inner = pass.with_activations(pass.weight_work != nullptr ? pass.kept : pass.recomputed);
  inner.recomputing = true;
  forward_layers(inner, saved.x_TD, again);
  return backward_layers(pass, dy_TD, again);
}

Tensor Block::forward_layers(Pass& pass, Tensor x_TD, Saved& saved) {
  Tensor attended_TD =
      attention_.forward(pass, norm1_.forward(pass, x_TD, saved.norm1), saved.attention);
  Tensor normed_TD = norm2_.forward_of_sum(pass, x_TD, attended_TD, saved.norm2);
  Tensor y_TD = moe_ ? moe_->forward(pass, normed_TD, saved.moe)
                     : dense_->forward(pass, normed_TD, saved.dense);
  backend_.ops().add(pass.queue, y_TD, y_TD, saved.norm2.x_TD);
  return y_TD;
}

// The mirror image of forward_layers(): read it bottom-up.
Tensor Block::backward_layers(Pass& pass, Tensor dy_TD, const Saved& saved) {
  Tensor dx_TD = pass.scratch.allocate_like(dy_TD);
  Arena::Scope scope(pass.scratch);
  Tensor dnormed_TD =
      moe_ ? moe_->backward(pass, dy_TD, saved.moe) : dense_->backward(pass, dy_TD, saved.dense);
  Tensor dh_TD = norm2_.backward(pass, dnormed_TD, dy_TD, saved.norm2);
  Tensor dattended_TD = attention_.backward(pass, dh_TD, saved.attention);
  backend_.ops().copy(pass.queue, dx_TD, norm1_.backward(pass, dattended_TD, dh_TD, saved.norm1));
  return dx_TD;
}

void Block::append_parameters(ParameterList& list) {
  list.push_back(&norm1_.weight());
  attention_.append_parameters(list);
  list.push_back(&norm2_.weight());
  if (moe_) moe_->append_parameters(list);
  if (dense_) dense_->append_parameters(list);
}

Dispatcher::Traffic Block::take_traffic() {
  return moe_ ? moe_->take_traffic() : Dispatcher::Traffic{};
}

}  // namespace switchyard
