// Weights on disk: the same file from every grid, read by every grid, in every dtype.
#include <map>

#include "checkpoint/box.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/weights.h"
#include "comm/self_communicator.h"
#include "comm/thread_communicator.h"
#include "config/config.h"
#include "equivalence/layouts.h"
#include "generate/generator.h"
#include "support/catch.h"
#include "support/training_job.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

RunConfig weights_config(const TokenFixture& tokens, bool tied) {
  RunConfig config = small_job_config(tokens.prefix());
  config.model.tie_word_embeddings = tied;
  config.moe.num_shared_experts = 1;
  config.moe.router_bias_update_rate = 0.01;
  config.parallelism = Layout{}.parallelism();
  return config;
}

// What a job on this grid writes before its first step: the same weights on every grid, and biases
// that each know their place.
void save_initial(const RunConfig& config, Communicator& world, const std::string& path) {
  TrainerOnRank on_rank(config, world);
  for (const StateTensor& state : on_rank.trainer.state()) {
    const double of_layer = state.name.find("layers.2.") != std::string::npos ? 2 : 0;
    for (int64_t e = 0; e < state.tensor.numel(); ++e)
      state.tensor.data<double>()[e] = of_layer + 0.125 * static_cast<double>(e);
  }
  save_weights(path, on_rank.trainer.parameters(), on_rank.trainer.state(), on_rank.backend,
               on_rank.grid.world());
}

// Weights of another seed, overwritten by those of `from`, written to `to`.
void copy_through_grid(RunConfig config, Communicator& world, const std::string& from,
                       const std::string& to) {
  config.training.seed += 1;
  TrainerOnRank on_rank(config, world);
  load_weights(from, on_rank.trainer.parameters(), on_rank.trainer.state(), on_rank.backend);
  save_weights(to, on_rank.trainer.parameters(), on_rank.trainer.state(), on_rank.backend,
               on_rank.grid.world());
}

}  // namespace

TEST_CASE("boxes go into a tensor and come out of it") {
  const TensorInfo info{DType::kI32, {3, 4, 5}};
  std::vector<int32_t> whole(60, -1);
  const Box box{{1, 2, 1}, {2, 1, 3}};
  const std::vector<int32_t> part = {10, 11, 12, 13, 14, 15};
  copy_into(std::as_writable_bytes(std::span(whole)), info, box, std::as_bytes(std::span(part)));
  for (int32_t i = 0, next = 10; i < 60; ++i) {
    const int32_t plane = i / 20, row = i / 5 % 4, column = i % 5;
    const bool inside = plane >= 1 && row == 2 && column >= 1 && column <= 3;
    CHECK(whole[static_cast<size_t>(i)] == (inside ? next++ : -1));
  }
  const std::vector<std::byte> cut = cut_out(std::as_bytes(std::span(whole)), info, box);
  CHECK(std::ranges::equal(cut, std::as_bytes(std::span(part))));

  CHECK(cut_out(std::as_bytes(std::span(whole)), info, {{0, 4, 0}, {3, 0, 5}}).empty());
  const std::vector<int32_t> scalar = {7};
  CHECK(cut_out(std::as_bytes(std::span(scalar)), {DType::kI32, {}}, {}).size() == 4);
  CHECK_THROWS_WITH(cut_out(std::as_bytes(std::span(whole)), info, {{0, 2, 0}, {3, 3, 5}}),
                    contains_text("box [0:3, 2:5, 0:5] in a tensor of shape (3, 4, 5)"));
}

TEST_CASE("weights written by any grid are the same file, and any grid reads it") {
  const TokenFixture tokens(320, 8, 29);
  const std::string path = tokens.prefix() + ".safetensors", again = path + ".again";
  for (const bool tied : {false, true}) {
    RunConfig config = weights_config(tokens, tied);
    SelfCommunicator self("self");
    save_initial(config, self, path);
    const std::string reference = read_bytes(path);
    const SafetensorsFile file(path);
    CHECK(file.info("model.layers.2.mlp.experts.7.down_proj.weight") ==
          TensorInfo{DType::kF64, {16, 16}});
    CHECK(file.contains("lm_head.weight") == !tied);
    CHECK(file.read_as<double>("model.layers.2.mlp.gate.e_score_correction_bias")[3] == 2.375);
    for (const int ranks : {1, 2, 4})
      for (const Layout& layout : layouts_of(ranks, config)) {
        CAPTURE(tied, layout.name());
        RunConfig on_grid = config;
        on_grid.parallelism = layout.parallelism();
        run_ranks(ranks, [&](Communicator& world) {
          save_initial(on_grid, world, again);
          SY_CHECK(read_bytes(again) == reference, "another file");
          world.barrier();
          copy_through_grid(on_grid, world, path, again);
        });
        CHECK(read_bytes(again) == reference);
      }
  }
}

TEST_CASE("weights of virtual stages are the same file") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = weights_config(tokens, true);
  const std::string path = tokens.prefix() + ".safetensors", again = path + ".again";
  SelfCommunicator self("self");
  save_initial(config, self, path);
  config.parallelism = Layout{.pp = 2}.parallelism();
  config.pipeline = {.schedule = ScheduleKind::kInterleaved1F1B, .virtual_stages = 2};
  config.train_batch_size = 16;
  config.gradient_accumulation_steps = 2;
  run_ranks(2, [&](Communicator& world) { copy_through_grid(config, world, path, again); });
  CHECK(read_bytes(again) == read_bytes(path));
}

TEST_CASE("a file holds what each parameter holds") {
  const TokenFixture tokens(320, 8, 29);
  const RunConfig config = weights_config(tokens, false);
  const std::string path = tokens.prefix() + ".safetensors";
  SelfCommunicator world("world");
  TrainerOnRank on_rank(config, world);
  save_weights(path, on_rank.trainer.parameters(), on_rank.trainer.state(), on_rank.backend,
               on_rank.grid.world());
  const SafetensorsFile file(path);
  size_t num_tensors = 0;
  for (const Parameter* parameter : on_rank.trainer.parameters()) {
    const auto weight = parameter->weight.span<double>();
    std::vector<double> stored;
    if (parameter->group == ReplicaGroup::kDense)
      stored = file.read_as<double>(parameter->name);
    else
      for (int expert = 0; expert < 8; ++expert) {
        std::string name = parameter->name;
        name.insert(name.find(".experts.") + 9, std::to_string(expert) + ".");
        const std::vector<double> values = file.read_as<double>(name);
        stored.insert(stored.end(), values.begin(), values.end());
      }
    num_tensors += parameter->group == ReplicaGroup::kDense ? 1 : 8;
    CAPTURE(parameter->name);
    CHECK(stored == std::vector<double>(weight.begin(), weight.end()));
  }
  CHECK(file.names().size() == num_tensors + 2);  // the biases of two MoE layers
}

TEST_CASE("a grid trained in bf16 writes bf16 weights, from which one rank samples") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = weights_config(tokens, true);
  config.fp64.enabled = false;
  config.bf16.enabled = true;
  const std::string path = tokens.prefix() + ".safetensors";
  RunConfig on_grid = config;
  on_grid.parallelism = Layout{.tp = 2, .pp = 2, .ep = 2}.parallelism();
  on_grid.zero_optimization.stage = 2;
  run_ranks(4, [&](Communicator& world) {
    TrainerOnRank on_rank(on_grid, world);
    for (int step = 0; step < 3; ++step) on_rank.trainer.train_step();
    save_weights(path, on_rank.trainer.parameters(), on_rank.trainer.state(), on_rank.backend,
                 on_rank.grid.world());
  });
  // The same values as f32.
  const SafetensorsFile file(path);
  std::map<std::string, TensorInfo> infos;
  for (const std::string& name : file.names()) {
    const bool is_state = name.find("e_score_correction_bias") != std::string::npos;
    CHECK(file.info(name).dtype == (is_state ? DType::kF64 : DType::kBF16));
    infos[name] = {is_state ? DType::kF64 : DType::kF32, file.info(name).shape};
  }
  SafetensorsWriter writer(path + ".f32", infos);
  for (const auto& [name, info] : infos) {
    if (info.dtype == DType::kF64) {
      writer.write(name, file.read(name));
      continue;
    }
    std::vector<float> values;
    for (const BFloat16 value : file.read_as<BFloat16>(name))
      values.push_back(static_cast<float>(value));
    writer.write(name, std::as_bytes(std::span(values)));
  }
  writer.finish();

  CpuBackend backend(1);
  SelfCommunicator world("world");
  const ProcessGrid grid(world, GridSizes{});
  const auto sample = [&](bool bf16, const std::string& weights) {
    RunConfig one_rank = config;
    one_rank.bf16.enabled = bf16;
    resolve(one_rank, 1);
    std::vector<int32_t> text;
    Generator generator(one_rank, backend, grid, weights);
    generator.generate({3, 1}, -1, {.max_new_tokens = 8, .temperature = 0},
                       [&](int32_t token) { text.push_back(token); });
    return text;
  };
  const std::vector<int32_t> text = sample(true, path);
  CHECK(text.size() == 8);
  CHECK(text[0] == sample(false, path + ".f32")[0]);
  CHECK_THROWS_WITH(sample(false, path), contains_text("is bf16 (29, 16), expected f32 (29, 16)"));
}

TEST_CASE("weights of another model are refused by name") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  resolve(config, 1);
  const std::string path = tokens.prefix() + ".safetensors";
  CpuBackend backend(1);
  SelfCommunicator world("world");
  const ProcessGrid grid(world, GridSizes{});
  Stage stage(backend, grid, config, whole_model(config));
  const std::vector<Buffer> memory = allocate_weights(stage.parameters(), backend, DType::kF64);
  save_weights(path, stage.parameters(), stage.state(), backend, grid.world());

  const auto message_for = [&](const RunConfig& other, DType real) {
    Stage reader(backend, grid, other, whole_model(other));
    const std::vector<Buffer> buffers = allocate_weights(reader.parameters(), backend, real);
    try {
      load_weights(path, reader.parameters(), reader.state(), backend);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(message_for(config, DType::kF64).empty());
  CHECK_THAT(message_for(config, DType::kF32),
             contains_text("is f64 (29, 16), expected f32 (29, 16)"));
  RunConfig wider = config;
  wider.model.vocab_size = 30;
  CHECK_THAT(message_for(wider, DType::kF64), contains_text("expected f64 (30, 16)"));
  RunConfig deeper = config;
  deeper.model.num_hidden_layers = 4;
  deeper.moe.layer_freq = {1, 0, 1, 1};
  CHECK_THAT(message_for(deeper, DType::kF64), contains_text("is missing"));
}
