// The state of a training job as global tensors: the same whatever the layout, saved by any, loaded
// by any, and training goes on from there. Jobs that load begin with other weights and take steps
// of their own first, so that nothing they hold is right by chance.
#include <algorithm>
#include <deque>
#include <mutex>

#include "checkpoint/digest.h"
#include "checkpoint/held_state.h"
#include "checkpoint/memory_checkpoint.h"
#include "comm/thread_communicator.h"
#include "equivalence/layouts.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr int kStepsBefore = 2, kStepsAfter = 2;

struct Numbers {
  std::vector<double> losses, norms;
};

Numbers train(TrainerOnRank& on_rank, int steps) {
  Numbers numbers;
  for (int i = 0; i < steps; ++i) {
    const StepReport report = on_rank.trainer.train_step();
    numbers.losses.push_back(report.lm_loss);
    numbers.norms.push_back(report.grad_norm);
  }
  return numbers;
}

// A job with this configuration: `body` on each rank; what rank 0 returns.
Numbers on_ranks(const RunConfig& config, int ranks,
                 const std::function<Numbers(TrainerOnRank&, Communicator&)>& body) {
  Numbers result;
  run_ranks(ranks, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    Numbers mine = body(on_rank, world);
    if (world.rank() == 0) result = std::move(mine);
  });
  return result;
}

// Steps, a checkpoint, and what comes after.
Numbers train_and_save(const RunConfig& config, int ranks, MemoryCheckpoint& checkpoint) {
  return on_ranks(config, ranks, [&](TrainerOnRank& on_rank, Communicator& world) {
    train(on_rank, kStepsBefore);
    checkpoint.save(on_rank, world);
    return train(on_rank, kStepsAfter);
  });
}

// Loads each of the checkpoints, the last one to go on from.
Numbers load_and_train(RunConfig config, int ranks,
                       const std::vector<const MemoryCheckpoint*>& checkpoints) {
  config.model.initializer_range *= 1.5;  // another seed would also mean other data
  return on_ranks(config, ranks, [&](TrainerOnRank& on_rank, Communicator& world) {
    train(on_rank, kStepsBefore);
    for (const MemoryCheckpoint* checkpoint : checkpoints) checkpoint->load(on_rank, world);
    return train(on_rank, kStepsAfter);
  });
}

// Saves on every layout, loads each checkpoint on each, and goes on: E1.
void check_all_pairs(const RunConfig& config, const std::vector<GridJob>& jobs) {
  std::deque<MemoryCheckpoint> checkpoints;
  std::vector<Numbers> continued;
  for (const GridJob& job : jobs) {
    CAPTURE(job.name());
    continued.push_back(train_and_save(job.on(config), job.ranks(), checkpoints.emplace_back()));
    CHECK(checkpoints.back().bytes() == checkpoints.front().bytes());
  }
  for (size_t to = 0; to < jobs.size(); ++to) {
    const size_t from = (to + jobs.size() / 2) % jobs.size();
    std::vector<const MemoryCheckpoint*> all;
    for (size_t i = 0; i < jobs.size(); ++i)
      all.push_back(&checkpoints[(from + 1 + i) % jobs.size()]);
    CAPTURE(jobs[from].name(), jobs[to].name());
    const Numbers numbers = load_and_train(jobs[to].on(config), jobs[to].ranks(), all);
    CHECK(std::abs(numbers.losses[0] / continued[from].losses[0] - 1) <= 1e-12);
    CHECK(std::abs(numbers.norms[0] / continued[from].norms[0] - 1) <= 1e-9);
    CHECK(std::abs(numbers.losses[1] / continued[from].losses[1] - 1) <= 1e-9);
  }
}

RunConfig job_config(const TokenFixture& tokens, int64_t vocab_size = 29) {
  RunConfig config = small_job_config(tokens.prefix(), vocab_size);
  config.moe.num_shared_experts = 1;
  config.moe.router_bias_update_rate = 0.01;
  config.gradient_accumulation_steps = 2;
  config.train_batch_size = 16;
  return config;
}

std::map<std::string, uint64_t> digests_on(const RunConfig& config, int ranks) {
  std::map<std::string, uint64_t> digests;
  run_ranks(ranks, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    const std::vector<HeldTensor> held = held_by(on_rank);
    const std::vector<Region> regions =
        regions_of(exchange_declarations(declarations_of(held), world));
    const DigestsByRank by_rank = exchange_digests(digests_of(held, on_rank.backend), world);
    SY_CHECK(differing_replicas(regions, by_rank).empty(), "copies differ");
    if (world.rank() == 0) digests = tensor_digests(regions, by_rank);
  });
  return digests;
}

bool has_key(const MemoryCheckpoint& checkpoint, const std::string& key) {
  return checkpoint.manifest.tensors.count(key) > 0;
}

}  // namespace

TEST_CASE("what a job begins with is the same tensors on every layout") {
  const TokenFixture tokens(320, 8, 29);
  for (const bool bf16 : {false, true})
    for (const bool tied : {false, true}) {
      RunConfig config = job_config(tokens);
      config.model.tie_word_embeddings = tied;
      config.fp64.enabled = !bf16;
      config.bf16.enabled = bf16;
      config.parallelism = Layout{}.parallelism();
      const std::map<std::string, uint64_t> reference = digests_on(config, 1);
      CHECK(reference.count("master/model.norm.weight") == (bf16 ? 1 : 0));
      CHECK(reference.count("exp_avg/model.layers.2.mlp.experts.7.down_proj.weight") == 1);
      CHECK(reference.count("state/model.layers.2.mlp.gate.e_score_correction_bias") == 1);
      CHECK(reference.count("lm_head.weight") == (tied ? 0 : 1));
      size_t index = 0;
      for (const int ranks : {2, 4})
        for (const Layout& layout : layouts_of(ranks, config)) {
          const GridJob job = {layout, index++};
          CAPTURE(job.name(), bf16, tied);
          CHECK(digests_on(job.on(config), ranks) == reference);
        }
    }
}

TEST_CASE("a checkpoint of any layout is loaded by any other") {
  const TokenFixture tokens(320, 8, 29);
  const RunConfig config = job_config(tokens);
  check_all_pairs(config, {{{.dp = 1}, 2},
                           {{.dp = 2}, 1},
                           {{.dp = 4, .ep = 2}, 2},
                           {{.tp = 2}, 0},
                           {{.tp = 4, .ep = 4}, 1},
                           {{.pp = 2}, 5},
                           {{.dp = 2, .tp = 2, .ep = 2, .etp = 2}, 2},
                           {{.dp = 2, .tp = 2, .pp = 2, .ep = 4}, 4},
                           {{.dp = 8, .ep = 8}, 1},
                           {{.dp = 4, .pp = 2, .ep = 2}, 8},
                           {{.tp = 8, .ep = 2}, 2},
                           {{.dp = 2, .tp = 4, .ep = 2, .etp = 4}, 7}});
}

TEST_CASE("a prime vocabulary, heads of which tp ranks share copies, tied embeddings") {
  const TokenFixture tokens(320, 8, 257);
  RunConfig config = job_config(tokens, 257);
  config.model.hidden_size = 24;
  config.model.num_attention_heads = 12;
  config.model.num_key_value_heads = 1;
  config.model.moe_intermediate_size = 12;
  config.moe.num_experts = 6;
  config.train_batch_size = 24;
  for (const bool tied : {false, true}) {
    config.model.tie_word_embeddings = tied;
    CAPTURE(tied);
    check_all_pairs(config, {{{.dp = 1}, 0},
                             {{.tp = 3}, 1},
                             {{.dp = 2, .tp = 2}, 2},
                             {{.tp = 3, .pp = 2, .ep = 3}, 2},
                             {{.dp = 3, .pp = 2, .ep = 3}, 4}});
  }
}

TEST_CASE("fewer elements than ranks") {
  const TokenFixture tokens(320, 8, 5);
  RunConfig config = job_config(tokens, 5);  // of 4 tp ranks, 2 rows each, the last holds nothing
  check_all_pairs(config, {{{.dp = 1}, 0}, {{.tp = 4}, 1}, {{.dp = 2, .tp = 4}, 2}});
}

TEST_CASE("experts over 1, 2, 4 and 8 ranks, cut or whole, some never used") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.moe.num_experts = 32;
  config.moe.top_k = 1;
  config.moe.router_bias_update_rate = 0;
  check_all_pairs(config, {{{.dp = 1}, 1},
                           {{.dp = 2, .ep = 2}, 2},
                           {{.dp = 4, .ep = 4}, 1},
                           {{.dp = 8, .ep = 8}, 2},
                           {{.dp = 2, .tp = 2, .ep = 2, .etp = 2}, 1},
                           {{.dp = 4, .tp = 2, .ep = 2, .etp = 2}, 2},
                           {{.dp = 2, .tp = 2, .ep = 4, .etp = 1}, 0}});
  // Moments of experts that no token chose are zero, and part of the checkpoint all the same.
  MemoryCheckpoint checkpoint;
  config.parallelism = Layout{.dp = 2, .ep = 2}.parallelism();
  train_and_save(config, 2, checkpoint);
  const std::vector<double> zeros(16 * 16, 0.0);
  const std::vector<int64_t> shape = {16, 16};
  const uint64_t of_zeros =
      digest_of(shape, whole_box(shape), DType::kF64, std::as_bytes(std::span(zeros)));
  int unused = 0;
  for (int expert = 0; expert < 32; ++expert)
    unused += checkpoint.manifest.tensors
                          .at(fmt::format("exp_avg/model.layers.2.mlp.experts.{}.down_proj.weight",
                                          expert))
                          .digest == of_zeros
                  ? 1
                  : 0;
  CHECK(unused > 0);
  CHECK(unused < 32);
}

TEST_CASE("what is frozen has weights and nothing else") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.training.frozen = {"model.layers.0.*", "model.layers.2.mlp.experts.{1..2}.*",
                            "model.layers.2.mlp.experts.6.up_proj.weight"};
  check_all_pairs(config, {{{.dp = 1}, 0},
                           {{.dp = 2}, 2},
                           {{.dp = 4, .ep = 2}, 1},
                           {{.dp = 2, .tp = 2, .ep = 2, .etp = 2}, 2},
                           {{.dp = 2, .pp = 2}, 5}});
  MemoryCheckpoint checkpoint;
  train_and_save(config, 1, checkpoint);
  CHECK(has_key(checkpoint, "model.layers.2.mlp.experts.1.up_proj.weight"));
  CHECK_FALSE(has_key(checkpoint, "exp_avg/model.layers.2.mlp.experts.1.up_proj.weight"));
  CHECK_FALSE(has_key(checkpoint, "exp_avg_sq/model.layers.2.mlp.experts.6.up_proj.weight"));
  CHECK(has_key(checkpoint, "exp_avg_sq/model.layers.2.mlp.experts.6.down_proj.weight"));
  CHECK(has_key(checkpoint, "exp_avg/model.layers.2.mlp.experts.0.up_proj.weight"));
  CHECK_FALSE(has_key(checkpoint, "exp_avg/model.layers.0.input_layernorm.weight"));
}

TEST_CASE("moments and masters go by their own names") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.fp64.enabled = false;
  config.bf16.enabled = true;
  config.parallelism = Layout{}.parallelism();
  on_ranks(config, 1, [&](TrainerOnRank& on_rank, Communicator&) {
    Numbers numbers = train(on_rank, kStepsBefore);
    const auto values = [&](const std::string& key) {
      for (const HeldTensor& held : held_by(on_rank))
        if (held.key == key) return held.data.span<float>();
      SY_CHECK(false, "nobody holds {}", key);
    };
    for (const Parameter* parameter : on_rank.trainer.parameters()) {
      if (parameter->group == ReplicaGroup::kExpert) continue;
      const auto first = values("exp_avg/" + parameter->name);
      const auto second = values("exp_avg_sq/" + parameter->name);
      const auto master = values("master/" + parameter->name);
      SY_CHECK(*std::min_element(first.begin(), first.end()) < 0, "first moments are signed");
      SY_CHECK(*std::min_element(second.begin(), second.end()) >= 0, "second moments are not");
      for (size_t i = 0; i < master.size(); ++i)
        SY_CHECK(BFloat16(master[i]) == parameter->weight.flat().data<BFloat16>()[i],
                 "{}: the weight is not the master copy, rounded", parameter->name);
    }
    return numbers;
  });
}

TEST_CASE("on the same layout training goes on bit for bit") {
  const TokenFixture tokens(320, 8, 29);
  for (const DType real : {DType::kF64, DType::kF32, DType::kBF16})
    for (const bool frozen : {false, true})
      for (const size_t variant : {0u, 1u, 2u, 14u}) {
        RunConfig config = job_config(tokens);
        config.fp64.enabled = real == DType::kF64;
        config.bf16.enabled = real == DType::kBF16;
        if (frozen) config.training.frozen = {"model.layers.2.mlp.experts.{1..2}.*"};
        const GridJob job = {{.dp = 2, .tp = 2, .ep = 2}, variant};
        CAPTURE(job.name(), name_of(real), frozen);
        MemoryCheckpoint before, again;
        const Numbers straight = train_and_save(job.on(config), 4, before);
        const Numbers resumed = load_and_train(job.on(config), 4, {&before});
        CHECK(resumed.losses == straight.losses);
        CHECK(resumed.norms == straight.norms);
        CHECK(before.max_over_mean_bytes <= 1.10);
      }
}

TEST_CASE("bf16 checkpoints go from layout to layout, master weights and all") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.fp64.enabled = false;
  config.bf16.enabled = true;
  const std::vector<GridJob> jobs = {{{.dp = 1}, 0},
                                     {{.dp = 2}, 1},
                                     {{.dp = 2, .tp = 2, .ep = 2}, 2},
                                     {{.dp = 2, .pp = 2, .ep = 2}, 5}};
  std::deque<MemoryCheckpoint> checkpoints;
  std::vector<const MemoryCheckpoint*> all;
  for (const GridJob& job : jobs) {
    train_and_save(job.on(config), job.ranks(), checkpoints.emplace_back());
    all.push_back(&checkpoints.back());
    CHECK(has_key(checkpoints.back(), "master/model.norm.weight"));
  }
  for (const GridJob& job : jobs) CHECK_NOTHROW(load_and_train(job.on(config), job.ranks(), all));
}

TEST_CASE("weights alone: master weights follow, moments stay") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.fp64.enabled = false;
  config.bf16.enabled = true;
  MemoryCheckpoint checkpoint;
  train_and_save(GridJob{{.dp = 2}, 1}.on(config), 2, checkpoint);
  for (const size_t variant : {0u, 1u, 2u}) {
    config.model.initializer_range = 0.3;
    // A part of each master weight is on each rank; together they are the weights.
    const RunConfig on_grid = GridJob{{.dp = 2, .tp = 2, .ep = 2}, variant}.on(config);
    on_ranks(on_grid, 4, [&](TrainerOnRank& on_rank, Communicator& world) {
      train(on_rank, 1);
      checkpoint.load(on_rank, world, LoadScope::kWeights);
      int64_t compared = 0;
      for (const FlatBuffer& group : on_rank.trainer.optimizer().groups())
        for (const FlatBuffer::Update& update : group.updates())
          for (int64_t i = 0; i < update.weight.numel(); ++i, ++compared)
            SY_CHECK(update.weight.data<float>()[i] ==
                         static_cast<float>(update.rounded_weight.data<BFloat16>()[i]),
                     "{}: element {} of a master weight is not the weight", update.parameter->name,
                     update.begin + i);
      SY_CHECK(compared > 0, "nothing compared");
      return train(on_rank, 1);
    });
  }
}
