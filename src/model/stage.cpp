#include "model/stage.h"

#include <algorithm>

#include "backend/ops.h"

namespace switchyard {
namespace {

// The embedding and the head are two copies of one parameter, on the first and the last stage.
void tie(Parameter& parameter) {
  parameter.copies = Copies::kTied;
  parameter.is_partial = true;
}

}  // namespace

StatisticsBuffer::StatisticsBuffer(Backend& backend, int num_moe_layers, int num_experts)
    : backend_(backend) {
  const int64_t M = num_moe_layers, E1 = num_experts + 1;
  buffer_ = Buffer(backend, (1 + M * (3 + E1)) * static_cast<int64_t>(sizeof(double)));
  Tensor all = buffer_.tensor(DType::kF64, {1 + M * (3 + E1)});
  statistics_.loss_sum = all.rows(0, 1);
  statistics_.balance_sum = all.rows(1, M);
  statistics_.z_sum = all.rows(1 + M, M);
  statistics_.entropy_sum = all.rows(1 + 2 * M, M);
  statistics_.expert_load = all.rows(1 + 3 * M, M * E1).reshape({M, E1});
}

void StatisticsBuffer::clear(Queue queue) {
  for (Tensor tensor : {statistics_.loss_sum, statistics_.balance_sum, statistics_.z_sum,
                        statistics_.entropy_sum, statistics_.expert_load})
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
  copy(values.entropy_sum, statistics_.entropy_sum);
  copy(values.expert_load, statistics_.expert_load);
  backend_.download(queue, &values.loss_sum, statistics_.loss_sum);
  backend_.host_wait(backend_.record(queue));
  return values;
}

std::vector<StagePart> parts_of_rank(const RunConfig& config, int pp_rank) {
  const std::vector<int64_t>& layers = config.pipeline.layers_per_stage;
  const int pp = config.parallelism.pipeline_parallel_size;
  std::vector<StagePart> parts;
  int first_layer = 0;
  for (size_t piece = 0; piece < layers.size(); ++piece) {
    if (static_cast<int>(piece) % pp == pp_rank)
      parts.push_back({.first_layer = first_layer,
                       .num_layers = static_cast<int>(layers[piece]),
                       .has_embedding = piece == 0,
                       .has_head = piece + 1 == layers.size()});
    first_layer += static_cast<int>(layers[piece]);
  }
  return parts;
}

int num_moe_layers(const RunConfig& config) {
  return static_cast<int>(
      std::count(config.moe.layer_freq.begin(), config.moe.layer_freq.end(), 1));
}

Stage::Stage(Backend& backend, const ProcessGrid& grid, const RunConfig& config,
             const StagePart& part)
    : backend_(backend),
      tp_(backend, grid.tp(), *config.parallelism.sequence_parallel),
      real_(config.real()),
      model_width_(config.model.hidden_size),
      head_unit_(head_unit(config.model.num_hidden_layers)),
      is_tied_(config.model.tie_word_embeddings && part.has_embedding && part.has_head) {
  const ModelConfig& model = config.model;
  if (part.has_embedding) embedding_.emplace(backend, tp_, model.vocab_size, model.hidden_size);
  const auto& is_moe = config.moe.layer_freq;
  auto moe_index =
      static_cast<int>(std::count(is_moe.begin(), is_moe.begin() + part.first_layer, 1));
  blocks_.reserve(static_cast<size_t>(part.num_layers));
  for (int layer = part.first_layer; layer < part.first_layer + part.num_layers; ++layer)
    blocks_.emplace_back(
        backend, grid, tp_, layer, config,
        is_moe[static_cast<size_t>(layer)] != 0 ? std::optional(moe_index++) : std::nullopt);
  if (!part.has_head) {
    if (model.tie_word_embeddings && embedding_) tie(embedding_->table());
    return;
  }
  norm_.emplace(backend, tp_, "model.norm.weight", model.hidden_size, model.rms_norm_eps);
  if (is_tied_) {
    head_.emplace(backend, tp_, &embedding_->table());
    return;
  }
  Parameter weight =
      vocabulary_parallel(model.tie_word_embeddings ? kEmbeddingName : "lm_head.weight",
                          model.vocab_size, model.hidden_size, tp_);
  if (model.tie_word_embeddings) tie(weight);
  head_.emplace(backend, tp_, std::move(weight));
}

Tensor Stage::hidden_of(const MicroBatch& batch) const {
  return Tensor(nullptr, real_, {tp_.hidden_rows(batch.num_tokens()), model_width_});
}

Tensor Stage::forward(Pass& pass, Tensor x_TD, Saved& saved) {
  Tensor y_TD = hidden_states(pass, x_TD, saved);
  if (!head_) return y_TD;
  head_->forward(pass, y_TD, saved.head);
  return Tensor();
}

Tensor Stage::logits(Pass& pass, Saved& saved) {
  return head_->logits(pass, hidden_states(pass, Tensor(), saved));
}

Tensor Stage::hidden_states(Pass& pass, Tensor x_TD, Saved& saved) {
  saved.blocks.resize(blocks_.size());
  if (embedding_) {
    begin_forward(embedding_unit());
    x_TD = embedding_->forward(pass);
  }
  for (size_t i = 0; i < blocks_.size(); ++i) {
    begin_forward(block_unit(blocks_[i].layer()));
    x_TD = blocks_[i].forward(pass, x_TD, saved.blocks[i]);
  }
  if (!norm_) return x_TD;
  begin_forward(head_unit_);
  return norm_->forward(pass, x_TD, saved.norm);
}

void Stage::begin_forward(int unit) {
  backend_.marks().at_unit(unit);
  hooks_.before_forward(unit);
}

Tensor Stage::backward(Pass& pass, Tensor dy_TD, Saved& saved) {
  return run_backward(pass, dy_TD, saved, false);
}

Tensor Stage::backward_input(Pass& pass, Tensor dy_TD, Saved& saved) {
  return run_backward(pass, dy_TD, saved, true);
}

// The mirror image of forward(): read it bottom-up.
Tensor Stage::run_backward(Pass& pass, Tensor dy_TD, Saved& saved, bool split) {
  Ops& ops = backend_.ops();
  const bool last = pass.is_last_micro_batch;
  Tensor dx_TD = pass.scratch.allocate_like(hidden_of(pass.batch));
  Arena::Scope scope(pass.scratch);
  if (head_) {
    std::vector<UnitUse> uses = {{head_unit_, last}};
    if (is_tied_) uses.push_back({embedding_unit(), false});
    in_units(pass, std::move(uses), saved, split, [&] {
      const Tensor dhidden_TD = head_->backward(pass, saved.head);
      ops.copy(pass.queue, dx_TD, norm_->backward(pass, dhidden_TD, Tensor(), saved.norm));
    });
  } else {
    ops.copy(pass.queue, dx_TD, dy_TD);
  }
  for (size_t i = blocks_.size(); i-- > 0;) {
    in_units(pass, {{block_unit(blocks_[i].layer()), last}}, saved, split, [&] {
      Arena::Scope block_scope(pass.scratch);
      ops.copy(pass.queue, dx_TD, blocks_[i].backward(pass, dx_TD, saved.blocks[i]));
    });
  }
  if (!embedding_) return dx_TD;
  in_units(pass, {{embedding_unit(), last}}, saved, split,
           [&] { embedding_->backward(pass, dx_TD); });
  return Tensor();
}

void Stage::in_units(Pass& pass, std::vector<UnitUse> uses, Saved& saved, bool split,
                     const std::function<void()>& backward_of_units) {
  backend_.marks().at_unit(uses[0].unit);
  if (split) {
    saved.pending.push_back({std::move(uses), {}});
    pass.weight_work = &saved.pending.back().work;
    backward_of_units();
    pass.weight_work = nullptr;
    return;
  }
  for (const UnitUse& use : uses) hooks_.before_gradients(use.unit);
  backward_of_units();
  finish_units(uses);
}

void Stage::backward_weights(Saved& saved) {
  for (PendingUnit& unit : saved.pending) {
    backend_.marks().at_unit(unit.uses[0].unit);
    for (const UnitUse& use : unit.uses) hooks_.before_gradients(use.unit);
    run_weight_work(unit.work);
    finish_units(unit.uses);
  }
  saved.pending.clear();
}

void Stage::finish_units(const std::vector<UnitUse>& uses) const {
  for (const UnitUse& use : uses) hooks_.after_gradients(use.unit, use.is_last);
}

ParameterList Stage::parameters() {
  ParameterList list;
  const auto set_unit = [&](size_t first, int unit) {
    for (size_t i = first; i < list.size(); ++i) list[i]->unit = unit;
  };
  if (embedding_) list.push_back(&embedding_->table());
  set_unit(0, embedding_unit());
  for (Block& block : blocks_) {
    const size_t first = list.size();
    block.append_parameters(list);
    set_unit(first, block_unit(block.layer()));
  }
  const size_t first = list.size();
  if (norm_) list.push_back(&norm_->weight());
  if (head_) head_->append_parameters(list);
  set_unit(first, head_unit_);
  return list;
}

void Stage::update_router_biases(Queue queue, Tensor scalars) const {
  for (const Block& block : blocks_)
    if (const Router* router = block.router()) router->update_bias(queue, scalars);
}

StateList Stage::state() const {
  StateList state;
  for (const Block& block : blocks_)
    if (const Router* router = block.router())
      if (const std::optional<StateTensor> bias = router->bias()) state.push_back(*bias);
  return state;
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
