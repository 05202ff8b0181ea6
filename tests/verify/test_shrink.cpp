// A shrunk job is small, fits the same ranks, and keeps what the whole one exercises.
#include <algorithm>
#include <fstream>
#include <numeric>
#include <set>
#include <sstream>

#include "config/config.h"
#include "support/catch.h"
#include "train/flops.h"
#include "verify/cost.h"
#include "verify/shrink.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

RunConfig large_config() {
  RunConfig config;
  config.data.path = "unused";
  config.data.sequence_length = 2048;
  config.train_batch_size = 1024;
  config.model = {.vocab_size = 50257,
                  .hidden_size = 4096,
                  .num_hidden_layers = 32,
                  .num_attention_heads = 48,
                  .num_key_value_heads = 12,
                  .head_dim = 128,
                  .intermediate_size = 12288,
                  .moe_intermediate_size = 1536};
  config.moe.enabled = true;
  config.moe.num_experts = 96;
  config.moe.top_k = 4;
  config.moe.layer_freq = {2};
  return config;
}

int ranks_of(const ParallelismConfig& grid) {
  return *grid.data_parallel_size * grid.tensor_parallel_size * grid.pipeline_parallel_size;
}

std::set<int> kinds_of_piece(const RunConfig& config, size_t piece) {
  const auto& blocks = config.pipeline.layers_per_stage;
  const auto begin =
      std::accumulate(blocks.begin(), blocks.begin() + static_cast<ptrdiff_t>(piece), int64_t{0});
  const auto first = config.moe.layer_freq.begin() + begin;
  return {first, first + blocks[piece]};
}

bool is_even(const std::vector<int64_t>& blocks) {
  return std::set<int64_t>(blocks.begin(), blocks.end()).size() == 1;
}

void check_shrunk(const RunConfig& whole, const RunConfig& small) {
  RunConfig again = small;
  resolve(again, ranks_of(whole.parallelism));  // throws where sizes do not fit
  CHECK(to_json(again) == to_json(small));
  CHECK(cost_of_proof(small, 3).flops < 3e10);
  CHECK(cost_of_proof(small, 3).bytes < 5e8);

  // What is no size, and the grid.
  RunConfig expected = whole;
  expected.train_batch_size = small.train_batch_size;
  expected.train_micro_batch_size_per_gpu = small.train_micro_batch_size_per_gpu;
  expected.gradient_accumulation_steps = small.gradient_accumulation_steps;
  expected.data.sequence_length = small.data.sequence_length;
  expected.data.eod_token_id = small.data.eod_token_id;
  const bool is_tied = expected.model.tie_word_embeddings;
  expected.model = small.model;
  expected.model.tie_word_embeddings = is_tied;
  expected.pipeline.layers_per_stage = small.pipeline.layers_per_stage;
  expected.moe.num_experts = small.moe.num_experts;
  expected.moe.layer_freq = small.moe.layer_freq;
  expected.moe.shared_expert_intermediate_size = small.moe.shared_expert_intermediate_size;
  CHECK(to_json(expected) == to_json(small));

  const int tp = whole.parallelism.tensor_parallel_size;
  const auto copies = [&](const RunConfig& c) { return *c.model.num_key_value_heads < tp; };
  const auto grouped = [](const RunConfig& c) {
    return *c.model.num_key_value_heads < c.model.num_attention_heads;
  };
  CHECK(copies(small) == copies(whole));
  CHECK(grouped(small) == grouped(whole));
  CHECK((small.model.vocab_size % tp == 0) == (whole.model.vocab_size % tp == 0));
  CHECK(small.moe.num_experts >= std::min(whole.moe.num_experts, 2 * whole.moe.top_k));
  CHECK((*small.gradient_accumulation_steps > 1) == (*whole.gradient_accumulation_steps > 1));
  REQUIRE(small.pipeline.layers_per_stage.size() == whole.pipeline.layers_per_stage.size());
  CHECK(is_even(small.pipeline.layers_per_stage) == is_even(whole.pipeline.layers_per_stage));
  for (size_t piece = 0; piece < small.pipeline.layers_per_stage.size(); ++piece)
    CHECK(kinds_of_piece(small, piece) == kinds_of_piece(whole, piece));
}

void check_grid(RunConfig whole, const ParallelismConfig& grid) {
  whole.parallelism = grid;
  resolve(whole, ranks_of(grid));
  check_shrunk(whole, shrink(whole));
}

}  // namespace

TEST_CASE("a large job shrinks on every grid that can train it") {
  int tried = 0;
  for (const int tp : {1, 2, 3, 4, 8, 24})
    for (const int pp : {1, 2, 3, 4})
      for (const int dp : {1, 2, 4})
        for (const int ep : {1, 2, 4, 6})
          for (const int etp : {1, 2, 3}) {
            const ParallelismConfig grid = {.data_parallel_size = dp,
                                            .tensor_parallel_size = tp,
                                            .pipeline_parallel_size = pp,
                                            .expert_parallel_size = ep,
                                            .expert_tensor_parallel_size = etp};
            RunConfig whole = large_config();
            whole.parallelism = grid;
            try {
              resolve(whole, ranks_of(grid));
            } catch (const Error&) {
              continue;  // cannot be trained
            }
            ++tried;
            CAPTURE(tp, pp, dp, ep, etp);
            check_shrunk(whole, shrink(whole));
          }
  CHECK(tried > 100);
}

TEST_CASE("features survive") {
  RunConfig config = large_config();
  config.model.tie_word_embeddings = true;
  config.moe.num_shared_experts = 2;
  config.moe.token_drop_policy = TokenDropPolicy::kCapacity;
  config.moe.n_group = 8;
  config.moe.topk_group = 2;
  config.moe.router = RouterKind::kSigmoid;
  config.zero_optimization.stage = 2;
  config.activation_checkpointing.policy = RecomputePolicy::kFull;
  config.bf16.enabled = true;
  config.gradient_accumulation_steps = 16;
  config.pipeline.schedule = ScheduleKind::kInterleaved1F1B;
  config.pipeline.virtual_stages = 2;
  check_grid(config,
             {.data_parallel_size = 2, .tensor_parallel_size = 2, .pipeline_parallel_size = 4});
  config.moe.enabled = false;
  check_grid(config,
             {.data_parallel_size = 2, .tensor_parallel_size = 6, .pipeline_parallel_size = 2});
}

TEST_CASE("what patterns of trained parameters may name stays") {
  RunConfig config = large_config();
  config.parallelism = {.data_parallel_size = 2};
  for (const bool freezes : {true, false}) {
    config.training.frozen =
        freezes ? std::vector<std::string>{"*.3.*"} : std::vector<std::string>{};
    config.training.trainable =
        freezes ? std::vector<std::string>{} : std::vector<std::string>{"*layers.31.*experts.95.*"};
    RunConfig whole = config;
    resolve(whole, 2);
    const RunConfig small = shrink(whole);
    CHECK(small.model.num_hidden_layers == 32);
    CHECK(small.moe.layer_freq == whole.moe.layer_freq);
    CHECK(small.moe.num_experts == 96);
    CHECK(small.model.hidden_size == 32);
  }
}

TEST_CASE("pipeline pieces keep their kinds, stay uneven, and stay empty") {
  RunConfig config = large_config();
  config.gradient_accumulation_steps = 16;
  for (const std::vector<int64_t>& blocks : {std::vector<int64_t>{8, 8, 8, 8},
                                             {9, 8, 8, 7},
                                             {32, 0, 0, 0},
                                             {1, 15, 15, 1},
                                             {0, 31, 1, 0}}) {
    config.pipeline.layers_per_stage = blocks;
    for (const std::vector<int>& freq : {std::vector<int>{1}, {2}, {16}}) {
      config.moe.layer_freq = freq;
      CAPTURE(blocks, freq);
      check_grid(config, {.data_parallel_size = 2, .pipeline_parallel_size = 4});
      config.pipeline.schedule = ScheduleKind::kInterleaved1F1B;
      config.pipeline.virtual_stages = 2;
      check_grid(config, {.data_parallel_size = 2, .pipeline_parallel_size = 2});
      config.pipeline = {.layers_per_stage = blocks};
    }
  }
}

TEST_CASE("there is a layer for each chunk, even where a few pieces have them all") {
  RunConfig config = large_config();
  config.gradient_accumulation_steps = 4;
  config.model.num_hidden_layers = 6;
  config.pipeline = {.schedule = ScheduleKind::kInterleaved1F1B, .virtual_stages = 6};
  config.pipeline.layers_per_stage = {3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  check_grid(config, {.data_parallel_size = 1, .pipeline_parallel_size = 2});
}

TEST_CASE("the schedule gets the micro-batches it needs") {
  const auto accumulation = [](int pp, int64_t whole) {
    RunConfig config = large_config();
    config.gradient_accumulation_steps = whole;
    config.parallelism = {.data_parallel_size = 1, .pipeline_parallel_size = pp};
    config.train_batch_size = 4 * whole;
    resolve(config, pp);
    return *shrink(config).gradient_accumulation_steps;
  };
  CHECK(accumulation(1, 16) == 2);
  CHECK(accumulation(4, 64) == 8);
  CHECK(accumulation(4, 4) == 4);
  CHECK(accumulation(4, 63) == 5);
  CHECK(accumulation(4, 3) == 3);
}

TEST_CASE("a small vocabulary keeps its tokens, a large one does not") {
  RunConfig config = large_config();
  config.data.document_mask = true;
  config.data.eod_token_id = 50256;
  config.parallelism.data_parallel_size = 1;
  resolve(config, 1);
  const RunConfig small = shrink(config);
  CHECK(small.model.vocab_size < 1024);
  CHECK(small.data.eod_token_id < small.model.vocab_size);
  config.model.vocab_size = 257;
  config.data.eod_token_id = 256;
  CHECK(shrink(config).model.vocab_size == 257);
  CHECK(shrink(config).data.eod_token_id == 256);
}

TEST_CASE("the shipped configurations shrink on 8 ranks, and what is small already stays") {
  for (const std::string name :
       {"quickstart", "quickstart_dense", "switch_8e_top1", "moe_64e_8ranks"}) {
    std::ifstream file(SWITCHYARD_SOURCE_DIR "/configs/" + name + ".json");
    std::stringstream text;
    text << file.rdbuf();
    const RunConfig whole = load_config({name, text.str()}, 8);
    CAPTURE(name);
    const RunConfig small = shrink(whole);
    check_shrunk(whole, small);
    CHECK(changes(small, shrink(small)).empty());
  }
}

TEST_CASE("changes are told by key, old and new") {
  RunConfig before = large_config(), after = before;
  before.parallelism.data_parallel_size = after.parallelism.data_parallel_size = 1;
  after.model.hidden_size = 32;
  after.moe.layer_freq = {1, 0};
  CHECK(changes(before, after) ==
        std::vector<std::string>{"model.hidden_size 4096 -> 32", "moe.layer_freq 2 -> [1,0]"});
}

// 32 bytes a parameter on each rank that holds it, 32 more for what is compared.
TEST_CASE("a proof costs state, what is compared and activations") {
  RunConfig config = large_config();
  config.parallelism = {.data_parallel_size = 1};
  resolve(config, 1);
  const ProofCost one = cost_of_proof(config, 3);
  const double matrices = 16 * (96.0 * 3 * 4096 * 1536 + 4096 * 96 + 3.0 * 4096 * 12288) +
                          32 * 2.0 * 4096 * 128 * (48 + 12) + 2.0 * 50257 * 4096;
  config.train_batch_size = config.data.sequence_length = 1;  // next to no activations
  CHECK_THAT(cost_of_proof(config, 3).bytes, Catch::Matchers::WithinRel(64 * matrices, 0.01));
  config.parallelism.data_parallel_size = 4;
  CHECK_THAT(cost_of_proof(config, 3).bytes,
             Catch::Matchers::WithinRel((4 * 32 + 32) * matrices, 0.01));
  config.parallelism.expert_parallel_size = 4;
  CHECK(cost_of_proof(config, 3).bytes < 100 * matrices);
  CHECK_THAT(cost_of_proof(config, 6).flops,
             Catch::Matchers::WithinRel(2 * cost_of_proof(config, 3).flops, 1e-12));
  CHECK(one.bytes > 64 * matrices);
}
