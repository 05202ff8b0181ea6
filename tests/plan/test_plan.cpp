// The plan against the model itself, against closed forms, and against itself over all ranks.
#include "backend/cpu/cpu_backend.h"
#include "comm/thread_communicator.h"
#include "config/config_text.h"
#include "model/stage.h"
#include "plan/memory.h"
#include "plan/report.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// MoE and dense layers, grouped-query attention, a shared expert, awkward sizes.
RunConfig mixed_config(int num_ranks, const std::vector<std::string>& overrides = {}) {
  return load(config_with(R"("model": {"num_hidden_layers": 5, "hidden_size": 24,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "intermediate_size": 36,
    "moe_intermediate_size": 20, "vocab_size": 257},
    "moe": {"enabled": true, "num_experts": 8, "layer_freq": [0, 1, 1, 0, 1],
            "num_shared_experts": 1, "shared_expert_intermediate_size": 12})"),
              num_ranks, overrides);
}

// What the model declares on each rank of the configuration's grid.
std::vector<ParameterCounts> declared_by_model(const RunConfig& config) {
  const ParallelismConfig& parallelism = config.parallelism;
  const GridSizes sizes{.dp = *parallelism.data_parallel_size,
                        .tp = parallelism.tensor_parallel_size,
                        .pp = parallelism.pipeline_parallel_size,
                        .ep = parallelism.expert_parallel_size,
                        .etp = *parallelism.expert_tensor_parallel_size};
  std::vector<ParameterCounts> declared(static_cast<size_t>(sizes.world()));
  run_ranks(sizes.world(), [&](Communicator& world) {
    CpuBackend backend(1);
    const ProcessGrid grid(world, sizes);
    ParameterCounts& counts = declared[static_cast<size_t>(world.rank())];
    for (const StagePart& part : parts_of_rank(config, grid.me().pp)) {
      Stage stage(backend, grid, config, part);
      for (const Parameter* parameter : stage.parameters())
        (parameter->group == ReplicaGroup::kExpert ? counts.expert : counts.dense) +=
            parameter->numel();
    }
  });
  return declared;
}

}  // namespace

TEST_CASE("the plan counts what the model declares on one rank") {
  for (const std::string change :
       {"moe.expert_activation=swiglu", "moe.expert_activation=relu", "moe.num_shared_experts=0",
        "model.tie_word_embeddings=true", "moe.enabled=false", "model.num_key_value_heads=4"}) {
    CAPTURE(change);
    const RunConfig config = mixed_config(1, {change});
    const ParameterCounts declared = declared_by_model(config)[0];
    CHECK(parameters_of_model(config).dense == declared.dense);
    CHECK(parameters_of_model(config).expert == declared.expert);
    CHECK(parameters_of_rank(config, 0).total() == declared.total());
  }
}

TEST_CASE("the plan counts what the model declares on the largest rank of each stage") {
  const std::string tp2 = "parallelism.tensor_parallel_size=2",
                    tp4 = "parallelism.tensor_parallel_size=4",
                    pp2 = "parallelism.pipeline_parallel_size=2",
                    ep4 = "parallelism.expert_parallel_size=4",
                    etp1 = "parallelism.expert_tensor_parallel_size=1";
  for (const std::vector<std::string>& grid : std::vector<std::vector<std::string>>{
           {tp2, pp2},
           {tp4},
           {tp2, ep4, etp1},
           {tp2, pp2, "model.tie_word_embeddings=true"},
           {tp4, pp2, "pipeline.schedule=interleaved_1f1b", "pipeline.virtual_stages=2"}}) {
    const RunConfig config = mixed_config(8, grid);
    const std::vector<ParameterCounts> declared = declared_by_model(config);
    const int num_stages = config.parallelism.pipeline_parallel_size;
    for (int stage = 0; stage < num_stages; ++stage) {
      CAPTURE(grid, stage);
      ParameterCounts largest;
      for (int rank = stage * 8 / num_stages; rank < (stage + 1) * 8 / num_stages; ++rank) {
        largest.dense = std::max(largest.dense, declared[static_cast<size_t>(rank)].dense);
        largest.expert = std::max(largest.expert, declared[static_cast<size_t>(rank)].expert);
      }
      CHECK(parameters_of_rank(config, stage).dense == largest.dense);
      CHECK(parameters_of_rank(config, stage).expert == largest.expert);
    }
  }
}

TEST_CASE("the stages hold the model, tied embeddings twice") {
  for (const bool is_tied : {false, true})
    for (const std::string schedule : {"1f1b", "interleaved_1f1b"}) {
      const RunConfig config = mixed_config(
          2, {"parallelism.pipeline_parallel_size=2", "pipeline.schedule=" + schedule,
              schedule == "1f1b" ? "pipeline.virtual_stages=1" : "pipeline.virtual_stages=2",
              is_tied ? "model.tie_word_embeddings=true" : "model.tie_word_embeddings=false"});
      CAPTURE(schedule, is_tied);
      const ParameterCounts model = parameters_of_model(config),
                            first = parameters_of_rank(config, 0),
                            second = parameters_of_rank(config, 1);
      CHECK(first.dense + second.dense == model.dense + (is_tied ? 257 * 24 : 0));
      CHECK(first.expert + second.expert == model.expert);
      CHECK(std::min(first.expert, second.expert) > 0);
    }
}

TEST_CASE("tensor parallelism slices, norms and router stay whole") {
  const RunConfig whole = mixed_config(1);
  const RunConfig cut = mixed_config(4, {"parallelism.tensor_parallel_size=4"});
  const int64_t D = 24, per_head = 6 * D;
  const int64_t norms = 5 * 2 * D + D, routers = 3 * 8 * D;
  const int64_t vocabulary = 2 * 65 * D;  // 257 rows over 4 ranks: 65 at most
  // Per block a query head and the output's columns of it, and one of two key/value heads, which
  // two ranks share.
  const int64_t attention = 5 * (2 * per_head + 2 * per_head);
  const int64_t dense = 2 * 3 * D * 9, shared = 3 * 3 * D * 3;
  CHECK(parameters_of_rank(cut, 0).dense ==
        norms + routers + vocabulary + attention + dense + shared);
  CHECK(parameters_of_rank(cut, 0).expert == parameters_of_rank(whole, 0).expert / 4);
}

TEST_CASE("over all ranks, every expert is held edp times") {
  const std::string tp = "parallelism.tensor_parallel_size=2";
  for (const std::vector<std::string>& grid : std::vector<std::vector<std::string>>{
           {tp},
           {tp, "parallelism.expert_parallel_size=2"},
           {tp, "parallelism.expert_parallel_size=8", "parallelism.expert_tensor_parallel_size=1"},
           {"parallelism.expert_parallel_size=4", "parallelism.expert_tensor_parallel_size=2"}}) {
    const RunConfig config = mixed_config(8, grid);
    CHECK(8 * parameters_of_rank(config, 0).expert ==
          expert_replicas(config) * parameters_of_model(config).expert);
  }
}

TEST_CASE("bytes per parameter under ZeRO") {
  const auto bytes = [](const std::string& precision, int stage, int replicas,
                        bool once_per_step = false) {
    RunConfig config;
    config.bf16.enabled = precision == "bf16";
    config.fp64.enabled = precision == "fp64";
    config.zero_optimization.stage = stage;
    config.zero_optimization.reduce_once_per_step = once_per_step;
    return bytes_per_parameter(config, replicas);
  };
  for (const int d : {1, 2, 8}) {
    CHECK(bytes("bf16", 0, d) == 18);
    CHECK(bytes("bf16", 1, d) == 6 + 12.0 / d);
    CHECK(bytes("bf16", 2, d) == 2 + 16.0 / d);
    CHECK(bytes("bf16", 2, d, true) == 6 + 12.0 / d);
    CHECK(bytes("f32", 0, d) == 16);
    CHECK(bytes("f32", 1, d) == 8 + 8.0 / d);
    CHECK(bytes("f32", 2, d) == 4 + 12.0 / d);
    CHECK(bytes("fp64", 2, d) == 8 + 24.0 / d);
  }
}

TEST_CASE("the text of a plan") {
  const RunConfig config =
      mixed_config(8, {"parallelism.tensor_parallel_size=2", "parallelism.pipeline_parallel_size=2",
                       "pipeline.schedule=zb_h1", "parallelism.expert_parallel_size=2",
                       "gradient_accumulation_steps=4", "zero_optimization.stage=2",
                       "pipeline.layers_per_stage=[3, 2]"});
  const std::string text = plan_text(config);
  for (const std::string part :
       {"8 ranks: dp 2 x tp 2 x pp 2, experts: ep 2 x etp 2 x edp 1",
        "8 sequences per step = 1 per rank * 4 micro-batches * dp 2",
        "ZeRO stage 2, f32: 10 bytes per dense parameter (dp 2), 16 per expert parameter (edp 1)",
        "stage 0   embedding, 3 blocks: per rank", "stage 1   2 blocks, head: per rank",
        "stage 0   F0 F1 .  B0 W0 F2 B1 W1 F3 B2 W2 B3 W3",
        "stage 1   .  F0 B0 F1 B1 W0 F2 B2 W1 F3 B3 W2 W3", "bubble: 7.7 % of the time",
        "activations held at once, per stage: 2, 2", "checkpoint: 0.8 MB on disk: weights 0.3, ",
        "MB of all ranks"})
    CHECK_THAT(text, contains_text(part));
}
