#include "plan/memory.h"

#include <algorithm>

#include "core/math.h"

namespace switchyard {
namespace {

// How the model is cut on a rank.
struct Cut {
  int64_t tp = 1, ep = 1, etp = 1;
};

ParameterCounts parameters_of_block(const RunConfig& config, const Cut& cut, size_t layer) {
  const ModelConfig& model = config.model;
  const MoeConfig& moe = config.moe;
  const int64_t D = model.hidden_size;
  const int64_t query_width = model.num_attention_heads / cut.tp * *model.head_dim;
  // A rank has one whole key/value head at least.
  const int64_t key_width =
      std::max<int64_t>(1, *model.num_key_value_heads / cut.tp) * *model.head_dim;
  const int64_t norms = 2 * D, attention = 2 * D * query_width + 2 * D * key_width;
  ParameterCounts counts{.dense = norms + attention};
  if (moe.layer_freq[layer] == 0) {
    counts.dense += 3 * D * (model.intermediate_size / cut.tp);
    return counts;
  }
  const int64_t matrices = moe.expert_activation == ExpertActivation::kSwiGLU ? 3 : 2;
  counts.dense += moe.num_experts * D;  // the router
  if (moe.num_shared_experts > 0)
    counts.dense += 3 * D * (*moe.shared_expert_intermediate_size / cut.tp);
  counts.expert =
      moe.num_experts / cut.ep * matrices * D * (*model.moe_intermediate_size / cut.etp);
  return counts;
}

// What the pieces of a pipeline stage declare.
struct StageParameters {
  ParameterCounts blocks = {};  // and the last norm
  int64_t vocabulary_tables = 0;
  int64_t moe_layers = 0;
};

// Of the pieces `first`, first + step, ... of the pipeline.
StageParameters parameters_of_pieces(const RunConfig& config, const Cut& cut, size_t first,
                                     size_t step) {
  const std::vector<int64_t>& blocks = config.pipeline.layers_per_stage;
  StageParameters stage;
  size_t layer = 0;
  for (size_t piece = 0; piece < blocks.size(); ++piece) {
    const bool is_mine = piece % step == first;
    for (int64_t i = 0; i < blocks[piece]; ++i, ++layer) {
      if (!is_mine) continue;
      const ParameterCounts block = parameters_of_block(config, cut, layer);
      stage.blocks.dense += block.dense;
      stage.blocks.expert += block.expert;
      stage.moe_layers += config.moe.layer_freq[layer] == 0 ? 0 : 1;
    }
    if (is_mine && piece == 0) ++stage.vocabulary_tables;
    if (is_mine && piece + 1 == blocks.size()) {
      stage.blocks.dense += config.model.hidden_size;
      const bool shares_embedding = config.model.tie_word_embeddings && stage.vocabulary_tables > 0;
      stage.vocabulary_tables += shares_embedding ? 0 : 1;
    }
  }
  return stage;
}

StageParameters parameters_of_stage(const RunConfig& config, int stage) {
  const ParallelismConfig& parallelism = config.parallelism;
  return parameters_of_pieces(config,
                              {.tp = parallelism.tensor_parallel_size,
                               .ep = parallelism.expert_parallel_size,
                               .etp = *parallelism.expert_tensor_parallel_size},
                              static_cast<size_t>(stage),
                              static_cast<size_t>(parallelism.pipeline_parallel_size));
}

// Of weights and of what the optimizer keeps beside them.
struct ElementBytes {
  int64_t weight = 0, master = 0, moments = 0;

  int64_t state() const { return master + moments; }
};

ElementBytes element_bytes(const RunConfig& config) {
  const DType real = config.real(), accumulator = accumulator_of(real);
  const auto bytes = [](DType dtype) { return static_cast<int64_t>(size_in_bytes(dtype)); };
  return {.weight = bytes(real),
          .master = real == accumulator ? 0 : bytes(accumulator),
          .moments = 2 * bytes(accumulator)};
}

int64_t router_bias_bytes(const RunConfig& config, int64_t moe_layers) {
  if (config.moe.router_bias_update_rate <= 0) return 0;
  return moe_layers * config.moe.num_experts * static_cast<int64_t>(size_in_bytes(DType::kF64));
}

}  // namespace

ParameterCounts parameters_of_model(const RunConfig& config) {
  const StageParameters model = parameters_of_pieces(config, Cut{}, 0, 1);
  return {.dense = model.blocks.dense +
                   model.vocabulary_tables * config.model.vocab_size * config.model.hidden_size,
          .expert = model.blocks.expert};
}

ParameterCounts parameters_of_rank(const RunConfig& config, int stage) {
  const StageParameters of_stage = parameters_of_stage(config, stage);
  const int64_t rows = div_up(config.model.vocab_size, config.parallelism.tensor_parallel_size);
  return {
      .dense = of_stage.blocks.dense + of_stage.vocabulary_tables * rows * config.model.hidden_size,
      .expert = of_stage.blocks.expert};
}

int dense_replicas(const RunConfig& config) { return *config.parallelism.data_parallel_size; }

int expert_replicas(const RunConfig& config) {
  const ParallelismConfig& parallelism = config.parallelism;
  return *parallelism.data_parallel_size * parallelism.tensor_parallel_size /
         (parallelism.expert_parallel_size * *parallelism.expert_tensor_parallel_size);
}

double bytes_per_parameter(const RunConfig& config, int replicas) {
  const auto gradient = static_cast<double>(size_in_bytes(accumulator_of(config.real())));
  const ZeroConfig& zero = config.zero_optimization;
  const bool cuts_gradient = zero.stage == 2 && !zero.reduce_once_per_step;
  return saved_bytes_per_parameter(config, replicas) + gradient / (cuts_gradient ? replicas : 1);
}

double saved_bytes_per_parameter(const RunConfig& config, int replicas) {
  const ElementBytes bytes = element_bytes(config);
  const int sharers = config.zero_optimization.stage >= 1 ? replicas : 1;
  return static_cast<double>(bytes.weight) + static_cast<double>(bytes.state()) / sharers;
}

CheckpointBytes checkpoint_bytes(const RunConfig& config) {
  const ElementBytes bytes = element_bytes(config);
  const int64_t parameters = parameters_of_model(config).total();
  const int64_t moe_layers = parameters_of_pieces(config, Cut{}, 0, 1).moe_layers;
  return {.weights = parameters * bytes.weight,
          .masters = parameters * bytes.master,
          .moments = parameters * bytes.moments,
          .state = router_bias_bytes(config, moe_layers)};
}

int64_t held_bytes_of_stage(const RunConfig& config, int stage) {
  const ParallelismConfig& grid = config.parallelism;
  const StageParameters of_stage = parameters_of_stage(config, stage);
  // Between the ranks that hold one copy of the stage: the tp ranks hold norms and routers each,
  // the rows of vocabularies once.
  const int64_t tp = grid.tensor_parallel_size, dense_copies = dense_replicas(config);
  const int64_t dense = tp * of_stage.blocks.dense + of_stage.vocabulary_tables *
                                                         config.model.vocab_size *
                                                         config.model.hidden_size;
  const int64_t expert = static_cast<int64_t>(grid.expert_parallel_size) *
                         *grid.expert_tensor_parallel_size * of_stage.blocks.expert;
  const int64_t expert_copies = expert_replicas(config);
  const ElementBytes bytes = element_bytes(config);
  const int64_t weights = (dense * dense_copies + expert * expert_copies) * bytes.weight;
  const bool cuts_state = config.zero_optimization.stage >= 1;
  const int64_t state =
      (cuts_state ? dense + expert : dense * dense_copies + expert * expert_copies) * bytes.state();
  return weights + state + tp * dense_copies * router_bias_bytes(config, of_stage.moe_layers);
}

double held_bytes_of_largest_rank(const RunConfig& config) {
  double largest = 0;
  for (int stage = 0; stage < config.parallelism.pipeline_parallel_size; ++stage) {
    const ParameterCounts counts = parameters_of_rank(config, stage);
    const int64_t biases = router_bias_bytes(config, parameters_of_stage(config, stage).moe_layers);
    largest = std::max(largest, saved_bytes_per_parameter(config, dense_replicas(config)) *
                                        static_cast<double>(counts.dense) +
                                    saved_bytes_per_parameter(config, expert_replicas(config)) *
                                        static_cast<double>(counts.expert) +
                                    static_cast<double>(biases));
  }
  return largest;
}

}  // namespace switchyard
