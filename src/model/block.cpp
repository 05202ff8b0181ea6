#include "model/block.h"

#include "backend/ops.h"

namespace switchyard {
namespace {

std::string name_of_layer(int layer) { return fmt::format("model.layers.{}.", layer); }

}  // namespace

Block::Block(Backend& backend, const ProcessGrid& grid, int layer, const RunConfig& config,
             std::optional<int> moe_index)
    : backend_(backend),
      norm1_(backend, name_of_layer(layer) + "input_layernorm.weight", config.model.hidden_size,
             config.model.rms_norm_eps),
      norm2_(backend, name_of_layer(layer) + "post_attention_layernorm.weight",
             config.model.hidden_size, config.model.rms_norm_eps),
      attention_(backend, name_of_layer(layer) + "self_attn", config.model) {
  const std::string mlp = name_of_layer(layer) + "mlp";
  if (moe_index)
    moe_.emplace(backend, grid, mlp, config, *moe_index);
  else
    dense_.emplace(backend, mlp, config.model.hidden_size, config.model.intermediate_size);
}

Tensor Block::forward(Pass& pass, Tensor x_TD, Saved& saved) {
  Tensor attended_TD =
      attention_.forward(pass, norm1_.forward(pass, x_TD, saved.norm1), saved.attention);
  Tensor normed_TD = norm2_.forward_of_sum(pass, x_TD, attended_TD, saved.norm2);
  Tensor y_TD = moe_ ? moe_->forward(pass, normed_TD, saved.moe)
                     : dense_->forward(pass, normed_TD, saved.dense);
  backend_.ops().add(pass.queue, y_TD, y_TD, saved.norm2.x_TD);
  return y_TD;
}

// The mirror image of forward(): read it bottom-up.
Tensor Block::backward(Pass& pass, Tensor dy_TD, const Saved& saved) {
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
