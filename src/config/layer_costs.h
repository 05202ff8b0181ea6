// What the layers of a model cost in matrix products: for the balanced cut into pipeline stages,
// for FLOP/s, for plans. Of configurations whose `model` and `moe` sections are resolved.
#pragma once

#include <cstdint>
#include <vector>

#include "config/run_config.h"

namespace switchyard {

// Weights of block `layer` that one token meets in matrix products: attention, and the feed-forward
// or the router, its top_k experts and the shared ones.
int64_t active_matmul_parameters(const RunConfig& config, int layer);

// Of the LM head; the embedding is a lookup.
int64_t head_matmul_parameters(const RunConfig& config);

// Multiply-adds per token of the attention core (scores and values) of one block, causal mask
// counted: half of 2 * sequence_length keys.
int64_t attention_core_products(const RunConfig& config);

// Multiply-adds per token in the forward of each of consecutive pieces of the model with that many
// blocks each. The first piece has the embedding too (a copy of one row), the last the LM head.
std::vector<double> piece_costs(const RunConfig& config, const std::vector<int64_t>& blocks);

// Blocks of each of `num_pieces` pieces, so that the most expensive piece is as cheap as can be and
// the others are as even as that allows. A piece may have no block.
std::vector<int64_t> balanced_layers(const RunConfig& config, int num_pieces);

}  // namespace switchyard
