// Costs of layers by hand, and the balanced cut against every other cut of small models.
#include <algorithm>
#include <functional>

#include "config/config_text.h"
#include "config/layer_costs.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

RunConfig mixed_model(const std::string& vocab_size) {
  return load(config_with(R"("model": {"num_hidden_layers": 6, "hidden_size": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32,
    "moe_intermediate_size": 24, "vocab_size": )" +
                          vocab_size + R"(},
    "moe": {"enabled": true, "num_experts": 8, "top_k": 3, "layer_freq": [0, 1, 0, 0, 1, 1],
            "num_shared_experts": 2})"),
              1, {"data.sequence_length=8"});
}

// The cost of the most expensive piece.
double largest_piece(const RunConfig& config, const std::vector<int64_t>& blocks) {
  double largest = 0;
  int layer = 0;
  for (size_t piece = 0; piece < blocks.size(); ++piece) {
    double cost = piece == 0 ? static_cast<double>(config.model.hidden_size) : 0;
    if (piece + 1 == blocks.size()) cost += static_cast<double>(head_matmul_parameters(config));
    for (int64_t i = 0; i < blocks[piece]; ++i, ++layer)
      cost += static_cast<double>(active_matmul_parameters(config, layer) +
                                  attention_core_products(config));
    largest = std::max(largest, cost);
  }
  return largest;
}

}  // namespace

TEST_CASE("the weights a token meets in a dense and in an MoE block") {
  const RunConfig config = mixed_model("100");
  const int64_t attention = 16 * (16 + 8 + 8 + 16);
  CHECK(active_matmul_parameters(config, 0) == attention + 3 * 16 * 32);
  CHECK(active_matmul_parameters(config, 1) ==
        attention + 8 * 16 + 3 * (3 * 16 * 24) + 3 * 16 * (2 * 24));
  CHECK(head_matmul_parameters(config) == 1600);
  CHECK(attention_core_products(config) == 8 * 16);
}

TEST_CASE("no other cut has a cheaper most expensive piece") {
  for (const std::string vocab_size : {"10", "300", "2000"})
    for (const int pieces : {1, 2, 3, 4}) {
      const RunConfig config = mixed_model(vocab_size);
      double best = 1e300;
      std::vector<int64_t> blocks(static_cast<size_t>(pieces));
      const std::function<void(size_t, int64_t)> try_all = [&](size_t piece, int64_t left) {
        if (piece + 1 == blocks.size()) {
          blocks[piece] = left;
          best = std::min(best, largest_piece(config, blocks));
          return;
        }
        for (blocks[piece] = 0; blocks[piece] <= left; ++blocks[piece])
          try_all(piece + 1, left - blocks[piece]);
      };
      try_all(0, 6);
      const std::vector<int64_t> balanced = balanced_layers(config, pieces);
      CAPTURE(vocab_size, pieces);
      int64_t sum = 0;
      for (const int64_t count : balanced) sum += count;
      CHECK(sum == 6);
      CHECK(largest_piece(config, balanced) == best);
    }
}
