// The plan's figures for checkpoints against jobs that save them.
#include <algorithm>

#include "checkpoint/checkpointer.h"
#include "checkpoint/held_state.h"
#include "comm/thread_communicator.h"
#include "equivalence/layouts.h"
#include "plan/memory.h"
#include "support/catch.h"
#include "support/training_job.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Measured {
  int64_t checkpoint = 0;
  std::vector<int64_t> held;  // by rank
};

int64_t bytes_of(const std::vector<HeldTensor>& held) {
  int64_t bytes = 0;
  for (const HeldTensor& tensor : held) bytes += tensor.data.bytes();
  return bytes;
}

// Of a job with this configuration: what its checkpointer writes, and what each rank copies first.
Measured measure(const RunConfig& config, int num_ranks) {
  const TemporaryDirectory directory;
  Measured measured;
  measured.held.resize(static_cast<size_t>(num_ranks));
  run_ranks(num_ranks, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    Trainer& trainer = on_rank.trainer;
    const std::vector<HeldTensor> held =
        held_state(trainer.parameters(), trainer.state(), trainer.optimizer());
    measured.held[static_cast<size_t>(world.rank())] = bytes_of(held);
    const auto storage = std::make_shared<Storage>();
    std::shared_ptr<RunDirectory> run;
    if (world.rank() == 0)
      run =
          std::make_shared<RunDirectory>(*storage, directory.file("run"), RunDirectory::Options{});
    const Checkpointer checkpointer({}, world, on_rank.backend, held, storage, run);
    if (world.rank() == 0) measured.checkpoint = checkpointer.bytes();
  });
  return measured;
}

}  // namespace

TEST_CASE("a checkpoint and the copies of asynchronous saves are as large as planned") {
  constexpr int64_t kVocabulary = 29;  // tp does not divide it
  const TokenFixture tokens(320, 8, kVocabulary);
  const std::vector<Layout> layouts = {{.dp = 1},
                                       {.dp = 2, .ep = 2},
                                       {.tp = 2},
                                       {.dp = 2, .tp = 2, .ep = 4, .etp = 1},
                                       {.pp = 2},
                                       {.dp = 2, .tp = 2, .pp = 2, .ep = 2, .etp = 2},
                                       {.tp = 8, .ep = 2, .etp = 4}};

  size_t variant = 0;
  for (const Layout& layout : layouts)
    for (const char* precision : {"f64", "f32", "bf16"}) {
      RunConfig config = small_job_config(tokens.prefix(), kVocabulary);
      config.fp64.enabled = precision == std::string("f64");
      config.bf16.enabled = precision == std::string("bf16");
      config.moe.num_shared_experts = 1;
      config.moe.router_bias_update_rate = variant % 2 == 0 ? 0.01 : 0;
      config.model.tie_word_embeddings = variant / 2 % 2 == 1;
      config.train_batch_size = 16;
      config.gradient_accumulation_steps = 2;
      config.parallelism = layout.parallelism();
      Variant(variant).apply(config);
      config.zero_optimization.stage = static_cast<int>((variant / 3 + variant) % 3);
      config.zero_optimization.reduce_once_per_step = false;
      CAPTURE(layout.name(), precision, config.zero_optimization.stage, variant);
      ++variant;

      const int num_ranks = layout.dp * layout.tp * layout.pp;
      const Measured measured = measure(config, num_ranks);
      resolve(config, num_ranks);
      const CheckpointBytes planned = checkpoint_bytes(config);
      CHECK(planned.total() == measured.checkpoint);
      CHECK((planned.state > 0) == (config.moe.router_bias_update_rate > 0));
      const int per_stage = num_ranks / layout.pp;
      for (int stage = 0; stage < layout.pp; ++stage) {
        int64_t held = 0;
        for (int i = 0; i < per_stage; ++i)
          held += measured.held[static_cast<size_t>(stage * per_stage + i)];
        CHECK(held_bytes_of_stage(config, stage) == held);
      }
      const auto largest =
          static_cast<double>(*std::max_element(measured.held.begin(), measured.held.end()));
      CHECK(held_bytes_of_largest_rank(config) <= largest);
      CHECK(largest <= 1.1 * held_bytes_of_largest_rank(config));
    }
}
