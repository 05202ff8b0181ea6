// Stage: the layers this rank runs, from token ids to the loss: embedding, blocks, final norm, LM
// head. (One stage is the whole model until pipeline parallelism exists.)
#pragma once

#include <vector>

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "model/block.h"
#include "model/embedding.h"
#include "model/lm_head.h"
#include "model/norm.h"
#include "model/pass.h"

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
    std::vector<double> balance_sum, z_sum;  // (M)
    std::vector<double> expert_load;         // (M, E + 1)
  };
  Values download(Queue queue);

 private:
  Backend& backend_;
  Buffer buffer_;
  Statistics statistics_;
};

class Stage {
 public:
  struct Saved {
    std::vector<Block::Saved> blocks;
    RmsNorm::Saved norm;
    LmHead::Saved head;
  };

  // `config` is resolved (config/config.h).
  Stage(Backend& backend, const ProcessGrid& grid, const RunConfig& config);
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  // Adds the micro-batch's losses to pass.statistics.
  void forward(Pass& pass, Saved& saved);
  // Adds to the gradient of every parameter.
  void backward(Pass& pass, const Saved& saved);
  // (T, V) for sampling, in pass.activations.
  Tensor logits(Pass& pass, Saved& saved);

  // All parameters in the order of the layers; the pointers stay valid as long as the stage.
  ParameterList parameters();
  int num_moe_layers() const { return num_moe_layers_; }
  // Since the last call, over all layers.
  Dispatcher::Traffic take_traffic();

 private:
  Tensor hidden_states(Pass& pass, Saved& saved);

  Backend& backend_;
  Embedding embedding_;
  std::vector<Block> blocks_;
  RmsNorm norm_;
  LmHead head_;
  int num_moe_layers_ = 0;
};

}  // namespace switchyard
