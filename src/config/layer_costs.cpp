#include "config/layer_costs.h"

#include <algorithm>
#include <limits>

namespace switchyard {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// Costs of consecutive pieces of a model.
class Costs {
 public:
  Costs(const RunConfig& config, size_t num_pieces)
      : num_pieces_(num_pieces),
        embedding_(static_cast<double>(config.model.hidden_size)),
        head_(static_cast<double>(head_matmul_parameters(config))) {
    for (int layer = 0; layer < config.model.num_hidden_layers; ++layer)
      before_.push_back(before_.back() +
                        static_cast<double>(active_matmul_parameters(config, layer)) +
                        static_cast<double>(attention_core_products(config)));
  }

  // Of piece `piece` with the blocks from begin to end.
  double of(size_t piece, size_t begin, size_t end) const {
    return before_[end] - before_[begin] + (piece == 0 ? embedding_ : 0) +
           (piece + 1 == num_pieces_ ? head_ : 0);
  }

 private:
  size_t num_pieces_;
  double embedding_, head_;
  std::vector<double> before_ = {0};  // of all blocks before a block
};

}  // namespace

int64_t active_matmul_parameters(const RunConfig& config, int layer) {
  const ModelConfig& model = config.model;
  const MoeConfig& moe = config.moe;
  const int64_t D = model.hidden_size, query_width = model.num_attention_heads * *model.head_dim,
                key_width = *model.num_key_value_heads * *model.head_dim;
  const int64_t attention = 2 * D * query_width + 2 * D * key_width;
  if (moe.layer_freq[static_cast<size_t>(layer)] == 0)
    return attention + 3 * D * model.intermediate_size;
  const int64_t matrices = moe.expert_activation == ExpertActivation::kSwiGLU ? 3 : 2;
  const int64_t shared =
      moe.num_shared_experts > 0 ? 3 * D * *moe.shared_expert_intermediate_size : 0;
  return attention + D * moe.num_experts + moe.top_k * matrices * D * *model.moe_intermediate_size +
         shared;
}

int64_t head_matmul_parameters(const RunConfig& config) {
  return config.model.vocab_size * config.model.hidden_size;
}

int64_t attention_core_products(const RunConfig& config) {
  return config.data.sequence_length * config.model.num_attention_heads * *config.model.head_dim;
}

std::vector<double> piece_costs(const RunConfig& config, const std::vector<int64_t>& blocks) {
  const Costs costs(config, blocks.size());
  std::vector<double> result;
  size_t begin = 0;
  for (const int64_t count : blocks) {
    const size_t end = begin + static_cast<size_t>(count);
    result.push_back(costs.of(result.size(), begin, end));
    begin = end;
  }
  return result;
}

std::vector<int64_t> balanced_layers(const RunConfig& config, int num_pieces) {
  const auto layers = static_cast<size_t>(config.model.num_hidden_layers),
             pieces = static_cast<size_t>(num_pieces);
  const Costs costs(config, pieces);
  // Two rounds of the same dynamic program over (piece, first block not yet given out): the
  // smallest maximum, then under that bound the smallest sum of squares.
  std::vector<std::vector<size_t>> begin_of(pieces, std::vector<size_t>(layers + 1));
  const auto solve = [&](double bound, auto&& join) {
    std::vector<double> best(layers + 1, kNever);
    best[0] = 0;
    for (size_t piece = 0; piece < pieces; ++piece) {
      std::vector<double> next(layers + 1, kNever);
      for (size_t end = 0; end <= layers; ++end)
        for (size_t begin = end + 1; begin-- > 0;) {
          const double cost = costs.of(piece, begin, end);
          if (cost > bound || join(0, cost) >= next[end]) break;  // it only grows
          if (const double total = join(best[begin], cost); total < next[end]) {
            next[end] = total;
            begin_of[piece][end] = begin;
          }
        }
      best = std::move(next);
    }
    return best[layers];
  };
  const double bound =
      solve(kNever, [](double so_far, double cost) { return std::max(so_far, cost); });
  solve(bound, [](double so_far, double cost) { return so_far + cost * cost; });
  std::vector<int64_t> blocks(pieces);
  size_t end = layers;
  for (size_t piece = pieces; piece-- > 0;) {
    blocks[piece] = static_cast<int64_t>(end - begin_of[piece][end]);
    end = begin_of[piece][end];
  }
  return blocks;
}

}  // namespace switchyard
