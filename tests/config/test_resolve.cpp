// Sizes against each other and against the number of ranks, and what is filled in for the user.
#include <array>
#include <optional>

#include "config/config_text.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

using Batch = std::array<std::optional<int64_t>, 3>;  // train, micro, accumulation

RunConfig with_batch(const Batch& batch) {
  RunConfig config;
  config.data.path = "x";
  config.train_batch_size = batch[0];
  config.train_micro_batch_size_per_gpu = batch[1];
  config.gradient_accumulation_steps = batch[2];
  return config;
}

std::string resolve_message(RunConfig config, int num_ranks) {
  try {
    resolve(config, num_ranks);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("the batch triple is solved from any sufficient part, as DeepSpeed does") {
  const Batch solved = {24, 3, 4};  // on two ranks
  const std::optional<int64_t> none;
  for (const Batch& given :
       {Batch{24, 3, 4}, Batch{24, 3, none}, Batch{24, none, 4}, Batch{none, 3, 4}}) {
    RunConfig config = with_batch(given);
    resolve(config, 2);
    CHECK(Batch{config.train_batch_size, config.train_micro_batch_size_per_gpu,
                config.gradient_accumulation_steps} == solved);
  }
  RunConfig config = with_batch({24, none, none});
  resolve(config, 2);
  CHECK(config.train_micro_batch_size_per_gpu == 12);
  CHECK(config.gradient_accumulation_steps == 1);
  config = with_batch({none, 5, none});
  resolve(config, 2);
  CHECK(config.train_batch_size == 10);
}

TEST_CASE("a batch triple that does not fit is refused with numbers that do") {
  const std::optional<int64_t> none;
  CHECK_THAT(resolve_message(with_batch({24, 3, 5}), 2),
             contains_text("found 24") && contains_text("= 30"));
  CHECK_THAT(resolve_message(with_batch({25, 3, none}), 2),
             contains_text("nearest that are: 24, 30"));
  CHECK_THAT(resolve_message(with_batch({7, none, none}), 2),
             contains_text("nearest that are: 6, 8"));
  CHECK_THAT(resolve_message(with_batch({1, none, none}), 2), contains_text("nearest that are: 2"));
  CHECK_THAT(resolve_message(with_batch({none, none, 4}), 2),
             contains_text("/train_batch_size: missing"));
}

TEST_CASE("the grid must fit the ranks") {
  const auto said = [](const std::string& grid, int ranks) {
    return message_of(config_with("\"moe\": {\"enabled\": true}, \"parallelism\": {" + grid + "}"),
                      ranks);
  };
  CHECK(load(config_with(R"("parallelism": {"tensor_parallel_size": 2})"), 8)
            .parallelism.data_parallel_size == 4);
  CHECK_THAT(said(R"("tensor_parallel_size": 2)", 3),
             contains_text("nearest counts that fit: 2, 4"));
  CHECK_THAT(said(R"("data_parallel_size": 2, "tensor_parallel_size": 2)", 8),
             contains_text("= 4 ranks, but the job has 8") && contains_text("mpirun -n 4"));
  CHECK_THAT(said(R"("expert_parallel_size": 3)", 4),
             contains_text("3 does not divide data 4") && contains_text("nearest that do: 2, 4"));
  CHECK_THAT(said(R"("expert_parallel_size": 6)", 6),
             contains_text(
                 "6 does not divide num_experts 8; nearest that do: 4, 8 (or num_experts 6, 12)"));
  CHECK_THAT(said(R"("expert_tensor_parallel_size": 3)", 4),
             contains_text("nearest that do: 2, 4"));
  CHECK_THAT(message_of(config_with(R"("parallelism": {"expert_parallel_size": 2})"), 2),
             contains_text("moe.enabled is false"));
  // Expert slices default to the dense ones.
  CHECK(load(config_with(R"("parallelism": {"tensor_parallel_size": 2})"), 8)
            .parallelism.expert_tensor_parallel_size == 2);
}

TEST_CASE("sizes of the model must fit each other") {
  const auto said = [](const std::string& more) { return message_of(config_with(more)); };
  CHECK_THAT(said(R"("model": {"hidden_size": 100, "num_attention_heads": 7})"),
             contains_text("nearest that do: 5, 10 (or set head_dim)"));
  CHECK_THAT(said(R"("model": {"hidden_size": 24, "num_attention_heads": 8})"),
             contains_text("3 is odd"));
  CHECK_THAT(said(R"("model": {"num_attention_heads": 8, "num_key_value_heads": 3})"),
             contains_text("nearest that do: 2, 4"));
  CHECK_THAT(said(R"("moe": {"enabled": true, "top_k": 9})"), contains_text("choose 1 to 8"));
  CHECK_THAT(said(R"("moe": {"enabled": true, "layer_freq": [1, 0]})"),
             contains_text("2 entries for 4 layers"));
  CHECK_THAT(said(R"("moe": {"enabled": true, "layer_freq": [1, 0, 2, 0]})"),
             contains_text("0 (dense) or 1 (MoE)"));
  CHECK_THAT(said(R"("moe": {"enabled": true, "layer_freq": 0})"),
             contains_text("/moe/layer_freq: found 0"));
  CHECK_THAT(said(R"("data": {"path": "x"})"), contains_text("given before"));
  CHECK_THAT(message_of("{\"train_batch_size\": 1}"), contains_text("/data/path: missing"));
  CHECK_THAT(said(R"("model": {"vocab_size": 300}, "training": {"ngram_baselines": true})"),
             contains_text("they count bytes, but model.vocab_size is 300"));
  CHECK_THAT(said(R"("bf16": {"enabled": true}, "fp64": {"enabled": true})"),
             contains_text("exclude"));
  CHECK_THAT(said(R"("communication_data_type": "bf16")"), contains_text("only with bf16.enabled"));
  CHECK(said(R"("communication_data_type": "bf16", "bf16": {"enabled": true})") == "");
  CHECK_THAT(said(R"("optimizer": {"params": {"betas": [0.9]}})"), contains_text("expected 2"));
  CHECK_THAT(
      message_of("{\"train_batch_size\": 1, \"data\": {\"path\": \"x\", \"document_mask\": true}, "
                 "\"model\": {\"vocab_size\": 100}}"),
      contains_text("256 is not below model.vocab_size 100"));
}

TEST_CASE("reducing once per step is a choice of ZeRO's second stage") {
  const auto said = [](const std::string& stage) {
    return message_of(config_with("\"zero_optimization\": {\"stage\": " + stage +
                                  ", \"reduce_once_per_step\": true}"));
  };
  CHECK(said("2") == "");
  CHECK_THAT(said("0"), contains_text("a choice of stage 2, but the stage is 0"));
  CHECK_THAT(said("1"), contains_text("stage 1 reduces once per step anyway"));
}

TEST_CASE("a DeepSpeed warm-up never silently ignores the learning rate") {
  const auto with = [](const std::string& params) {
    return config_with(
        R"("optimizer": {"params": {"lr": 3e-4}}, "scheduler": {"type": "WarmupLR", "params": {)" +
        params + "}}");
  };
  CHECK_THAT(message_of(with("")), contains_text("/scheduler/params/warmup_max_lr: missing"));
  CHECK(load(with("\"warmup_max_lr\": 5e-4")).scheduler.params.warmup_max_lr == 5e-4);
  CHECK(load(config_with(R"("scheduler": {"type": "WarmupLR"})")).scheduler.params.warmup_max_lr ==
        1e-3);
}

TEST_CASE("the device is the command's to choose unless the configuration names one") {
  const std::string without = config_with(R"("steps_per_print": 5)");
  CHECK(!load(without).device.has_value());
  CHECK(load(config_with(R"("device": "cuda")")).device == Device::kCuda);
  CHECK(load(config_with(R"("device": "cpu")")).device == Device::kCpu);
  CHECK_THAT(message_of(config_with(R"("device": "gpu")")),
             contains_text("one of \"cpu\", \"cuda\""));
  // Written down once it is chosen, and not before.
  RunConfig config = load(without);
  CHECK(to_json(config).find("\"device\"") == std::string::npos);
  config.device = Device::kCuda;
  CHECK_THAT(to_json(config), contains_text("\"device\": \"cuda\""));
}

TEST_CASE("a stop margin must leave something of the wall time") {
  const auto with_margin = [](const std::string& margin) {
    return config_with(R"("training": {"max_wall_time": 60, "stop_margin": )" + margin + "}");
  };
  CHECK_THAT(message_of(with_margin("60")),
             contains_text("/training/stop_margin: 60 s leave nothing"));
  CHECK(message_of(with_margin("59")).empty());
  CHECK(message_of(config_with(R"("training": {"stop_margin": 60})")).empty());
}
