// Stage: a piece of the model that one rank runs: embedding, blocks, final norm and LM head, or
// some of these. Without pipeline parallelism it is the whole.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "model/block.h"
#include "model/embedding.h"
#include "model/lm_head.h"
#include "model/norm.h"
#include "model/pass.h"
#include "model/tensor_parallel.h"
#include "model/unit_hooks.h"
#include "model/weight_gradients.h"

namespace switchyard {

// Owns the device memory behind Statistics (pass.h).
class StatisticsBuffer {
 public:
  StatisticsBuffer(Backend& backend, int num_moe_layers, int num_experts);

  Statistics& statistics() { return statistics_; }
  void clear(Queue queue);

  // Copied to the host, laid out as in Statistics.
  struct Values {
    double loss_sum = 0;
    std::vector<double> balance_sum, z_sum, entropy_sum;  // (M)
    std::vector<double> expert_load;                      // (M, E + 1)
  };
  Values download(Queue queue);

 private:
  Backend& backend_;
  Buffer buffer_;
  Statistics statistics_;
};

// A piece of the model: consecutive blocks, with the embedding before or the head behind them.
struct StagePart {
  int first_layer = 0, num_layers = 0;
  bool has_embedding = true, has_head = true;
};

inline StagePart whole_model(const RunConfig& config) {
  return {.num_layers = config.model.num_hidden_layers};
}
// The pieces of pipeline rank `pp_rank`, one per virtual stage: piece c * pp + pp_rank of the model
// is its piece c. `config` is resolved.
std::vector<StagePart> parts_of_rank(const RunConfig& config, int pp_rank);

class Stage {
 public:
  // The additions to weight gradients that a split backward has put off, unit by unit.
  struct UnitUse {
    int unit;
    bool is_last;  // of the step
  };
  struct PendingUnit {
    std::vector<UnitUse> uses;
    WeightWork work;
  };
  struct Saved {
    std::vector<Block::Saved> blocks;
    RmsNorm::Saved norm;
    LmHead::Saved head;
    std::deque<PendingUnit> pending;
  };

  // `config` is resolved (config/config.h).
  Stage(Backend& backend, const ProcessGrid& grid, const RunConfig& config, const StagePart& part);
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  // Who listens to what the stage does; without, nobody does.
  void set_hooks(UnitHooks hooks) { hooks_ = std::move(hooks); }

  // The hidden state for the next stage, in pass.activations; none from the last, which adds the
  // micro-batch's loss to pass.statistics. `x_TD` comes from the stage before; none for the first.
  Tensor forward(Pass& pass, Tensor x_TD, Saved& saved);
  // The gradient for the stage before, in pass.scratch; none from the first. `dy_TD` comes from the
  // next stage; none for the last. Adds to the gradient of every parameter.
  Tensor backward(Pass& pass, Tensor dy_TD, Saved& saved);
  // The same in two parts (zero bubble): all that other ranks wait for, and the weight gradients,
  // for which the micro-batch's activations must still be there.
  Tensor backward_input(Pass& pass, Tensor dy_TD, Saved& saved);
  void backward_weights(Saved& saved);
  // (T, V) for sampling, in pass.activations. Of a stage that is the whole model.
  Tensor logits(Pass& pass, Saved& saved);

  // Type and shape (rows, D) of what passes between stages; no memory.
  Tensor hidden_of(const MicroBatch& batch) const;

  // All parameters in the order of the layers; the pointers stay valid as long as the stage.
  ParameterList parameters();
  // At the end of a step, when `scalars` says whether it is skipped; collective over the ranks that
  // share the global micro-batch: moves the router biases (moe/router_bias.h).
  void update_router_biases(Queue queue, Tensor scalars) const;
  // The router biases, if the configuration asks for them.
  StateList state() const;
  // Since the last call, over all layers.
  Dispatcher::Traffic take_traffic();

 private:
  Tensor hidden_states(Pass& pass, Tensor x_TD, Saved& saved);
  void begin_forward(int unit);
  Tensor run_backward(Pass& pass, Tensor dy_TD, Saved& saved, bool split);
  void in_units(Pass& pass, std::vector<UnitUse> uses, Saved& saved, bool split,
                const std::function<void()>& backward_of_units);
  void finish_units(const std::vector<UnitUse>& uses) const;

  Backend& backend_;
  TensorParallel tp_;
  DType real_;
  int64_t model_width_;
  int head_unit_;
  bool is_tied_;
  UnitHooks hooks_;
  std::optional<Embedding> embedding_;
  std::vector<Block> blocks_;
  std::optional<RmsNorm> norm_;
  std::optional<LmHead> head_;
};

// MoE layers of the whole model.
int num_moe_layers(const RunConfig& config);

}  // namespace switchyard
