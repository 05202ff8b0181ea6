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

// Of the pieces `first`, first + step, ... of the pipeline.
ParameterCounts parameters_of_pieces(const RunConfig& config, const Cut& cut, size_t first,
                                     size_t step) {
  const std::vector<int64_t>& blocks = config.pipeline.layers_per_stage;
  const int64_t D = config.model.hidden_size,
                vocabulary = div_up(config.model.vocab_size, cut.tp) * D;
  ParameterCounts counts;
  size_t layer = 0;
  bool has_embedding = false;
  for (size_t piece = 0; piece < blocks.size(); ++piece) {
    const bool is_mine = piece % step == first;
    for (int64_t i = 0; i < blocks[piece]; ++i, ++layer) {
      if (!is_mine) continue;
      const ParameterCounts block = parameters_of_block(config, cut, layer);
      counts.dense += block.dense;
      counts.expert += block.expert;
    }
    if (is_mine && piece == 0) {
      has_embedding = true;
      counts.dense += vocabulary;
    }
    if (is_mine && piece + 1 == blocks.size())
      counts.dense += D + (config.model.tie_word_embeddings && has_embedding ? 0 : vocabulary);
  }
  return counts;
}

}  // namespace

ParameterCounts parameters_of_model(const RunConfig& config) {
  return parameters_of_pieces(config, Cut{}, 0, 1);
}

ParameterCounts parameters_of_rank(const RunConfig& config, int stage) {
  const ParallelismConfig& parallelism = config.parallelism;
  return parameters_of_pieces(config,
                              {.tp = parallelism.tensor_parallel_size,
                               .ep = parallelism.expert_parallel_size,
                               .etp = *parallelism.expert_tensor_parallel_size},
                              static_cast<size_t>(stage),
                              static_cast<size_t>(parallelism.pipeline_parallel_size));
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
  const DType real = config.real(), accumulator = accumulator_of(real);
  const auto weight = static_cast<double>(size_in_bytes(real)),
             moment = static_cast<double>(size_in_bytes(accumulator));
  const double master = real == accumulator ? 0 : moment;
  const bool cuts_state = config.zero_optimization.stage >= 1;
  return weight + (master + 2 * moment) / (cuts_state ? replicas : 1);
}

double checkpoint_bytes(const RunConfig& config) {
  return static_cast<double>(parameters_of_model(config).total()) *
         saved_bytes_per_parameter(config, 1);
}

}  // namespace switchyard
