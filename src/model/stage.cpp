#include "model/stage.h"

#include "backend/ops.h"

namespace switchyard {

StatisticsBuffer::StatisticsBuffer(Backend& backend, int num_moe_layers, int num_experts)
    : backend_(backend) {
  const int64_t M = num_moe_layers, E1 = num_experts + 1;
  buffer_ = Buffer(backend, (1 + M * (2 + E1)) * static_cast<int64_t>(sizeof(double)));
  Tensor all = buffer_.tensor(DType::kF64, {1 + M * (2 + E1)});
  statistics_.loss_sum = all.rows(0, 1);
  statistics_.balance_sum = all.rows(1, M);
  statistics_.z_sum = all.rows(1 + M, M);
  statistics_.expert_load = all.rows(1 + 2 * M, M * E1).reshape({M, E1});
}

void StatisticsBuffer::clear(Queue queue) {
  for (Tensor tensor :
       {statistics_.loss_sum, statistics_.balance_sum, statistics_.z_sum, statistics_.expert_load})
    backend_.ops().fill(queue, tensor, 0.0);
}

StatisticsBuffer::Values StatisticsBuffer::download(Queue queue) {
  Values values;
  const auto copy = [&](std::vector<double>& host, Tensor device) {
    host.resize(static_cast<size_t>(device.numel()));
    backend_.download(queue, host.data(), device);
  };
  copy(values.balance_sum, statistics_.balance_sum);
  copy(values.z_sum, statistics_.z_sum);
  copy(values.expert_load, statistics_.expert_load);
  backend_.download(queue, &values.loss_sum, statistics_.loss_sum);
  backend_.host_wait(backend_.record(queue));
  return values;
}

Stage::Stage(Backend& backend, const ProcessGrid& grid, const RunConfig& config)
    : backend_(backend),
      embedding_(backend, config.model.vocab_size, config.model.hidden_size),
      norm_(backend, "model.norm.weight", config.model.hidden_size, config.model.rms_norm_eps),
      head_(backend, config.model.vocab_size, config.model.hidden_size,
            config.model.tie_word_embeddings ? &embedding_.table() : nullptr) {
  const int num_layers = config.model.num_hidden_layers;
  blocks_.reserve(static_cast<size_t>(num_layers));
  for (int layer = 0; layer < num_layers; ++layer) {
    const bool is_moe = config.moe.layer_freq[static_cast<size_t>(layer)] != 0;
    blocks_.emplace_back(backend, grid, layer, config,
                         is_moe ? std::optional(num_moe_layers_++) : std::nullopt);
  }
}

void Stage::forward(Pass& pass, Saved& saved) {
  head_.forward(pass, hidden_states(pass, saved), saved.head);
}

Tensor Stage::logits(Pass& pass, Saved& saved) {
  return head_.logits(pass, hidden_states(pass, saved));
}

Tensor Stage::hidden_states(Pass& pass, Saved& saved) {
  saved.blocks.resize(blocks_.size());
  Tensor x_TD = embedding_.forward(pass);
  for (size_t i = 0; i < blocks_.size(); ++i)
    x_TD = blocks_[i].forward(pass, x_TD, saved.blocks[i]);
  return norm_.forward(pass, x_TD, saved.norm);
}

// The mirror image of forward(): read it bottom-up.
void Stage::backward(Pass& pass, const Saved& saved) {
  Arena::Scope scope(pass.scratch);
  Tensor dhidden_TD = head_.backward(pass, saved.head);
  Tensor dx_TD = norm_.backward(pass, dhidden_TD, Tensor(), saved.norm);
  for (size_t i = blocks_.size(); i-- > 0;) {
    Arena::Scope block_scope(pass.scratch);
    backend_.ops().copy(pass.queue, dx_TD, blocks_[i].backward(pass, dx_TD, saved.blocks[i]));
  }
  embedding_.backward(pass, dx_TD);
}

ParameterList Stage::parameters() {
  ParameterList list = {&embedding_.table()};
  for (Block& block : blocks_) block.append_parameters(list);
  list.push_back(&norm_.weight());
  head_.append_parameters(list);
  return list;
}

Dispatcher::Traffic Stage::take_traffic() {
  Dispatcher::Traffic total;
  for (Block& block : blocks_) {
    const Dispatcher::Traffic traffic = block.take_traffic();
    total.seconds += traffic.seconds;
    total.bytes += traffic.bytes;
  }
  return total;
}

}  // namespace switchyard
