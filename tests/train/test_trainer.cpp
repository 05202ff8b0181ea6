// The trainer as a whole: known losses, memory that stands still.
#include <cmath>
#include <cstdio>

#include "comm/collective_error.h"
#include "comm/self_communicator.h"
#include "comm/thread_communicator.h"
#include "config/config.h"
#include "support/catch.h"
#include "support/training_job.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// What the code computed when the whole chain - operations, layers, model against an independent
// implementation, layouts - had been proven; any change of the mathematics shows here.
const std::vector<double> kLosses = {
    3.5754388877858845, 3.4650326984201394, 3.5633433170978011, 3.4794153404639538,
    3.2854273914952326, 3.0411358931992232, 2.9799882149179182, 3.244134203892918,
    3.457796856860694,  3.3372759644961745, 3.0801210141244413, 3.0423442865524271,
    3.0962982610739274, 3.201630008847919,  3.2657832226117396, 3.2199842254513853,
    3.3881661853459843, 3.1581339284571754, 3.2239487256386767, 3.5137321038012965,
};

// Allocations of the device after each step, of every rank.
std::vector<std::vector<int64_t>> allocations_by_step(RunConfig config, int num_ranks,
                                                      int64_t steps) {
  std::vector<std::vector<int64_t>> allocations(static_cast<size_t>(num_ranks));
  run_ranks(num_ranks, [&](Communicator& world) {
    TrainerOnRank on_rank(config, world);
    while (on_rank.trainer.step() < steps) {
      on_rank.trainer.train_step();
      allocations[static_cast<size_t>(world.rank())].push_back(
          on_rank.backend.memory().allocations);
    }
  });
  return allocations;
}

}  // namespace

TEST_CASE("twenty losses of a tiny run") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.train_batch_size = 4;
  config.model.num_attention_heads = 4;
  config.model.head_dim = 4;
  config.model.moe_intermediate_size = 12;
  const JobResult job = run_job_on_threads(config, 1, {});
  if (job.lm_loss.size() != kLosses.size())  // an empty list asks for a new one
    for (const double loss : job.lm_loss) std::printf("    %.17g,\n", loss);
  REQUIRE(job.lm_loss.size() == kLosses.size());
  for (size_t i = 0; i < kLosses.size(); ++i) {
    CAPTURE(i);
    CHECK_THAT(job.lm_loss[i], Catch::Matchers::WithinRel(kLosses[i], 1e-9));
  }
}

TEST_CASE("after the first steps training allocates nothing") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig capacity = small_job_config(tokens.prefix());
  capacity.moe.token_drop_policy = TokenDropPolicy::kCapacity;
  RunConfig balanced = small_job_config(tokens.prefix());
  balanced.moe.force_balanced = true;
  for (RunConfig config : {capacity, balanced})
    for (const int ranks : {1, 2}) {
      config.parallelism.expert_parallel_size = ranks;
      for (const auto& allocations : allocations_by_step(config, ranks, 15)) {
        CAPTURE(ranks, config.moe.force_balanced, allocations);
        CHECK(allocations[3] == allocations.back());
        CHECK(allocations[3] > 0);
      }
    }
}

TEST_CASE("validation is dropless unless eval_capacity_factor says otherwise") {
  const TokenFixture tokens(320, 8, 29);
  SelfCommunicator world("world");
  const auto validation_loss = [&](const RunConfig& config) {
    return TrainerOnRank(config, world).trainer.validate(0).lm_loss;
  };
  const RunConfig dropless = small_job_config(tokens.prefix());
  RunConfig capacity = dropless;
  capacity.moe.token_drop_policy = TokenDropPolicy::kCapacity;
  capacity.moe.capacity_factor = 0.25;
  CHECK(validation_loss(capacity) == validation_loss(dropless));
  capacity.moe.eval_capacity_factor = 0.25;
  CHECK(validation_loss(capacity) != validation_loss(dropless));
}

TEST_CASE("max_received_tokens_factor bounds what a rank receives") {
  const TokenFixture tokens(320, 8, 29);
  SelfCommunicator world("world");
  RunConfig config = small_job_config(tokens.prefix());
  config.moe.max_received_tokens_factor = 1.0;  // one rank receives exactly its balanced share
  CHECK_NOTHROW(TrainerOnRank(config, world).trainer.train_step());
  config.moe.max_received_tokens_factor = 0.9;
  CHECK_THROWS_WITH(TrainerOnRank(config, world).trainer.train_step(),
                    contains_text("moe.max_received_tokens_factor allows 0.9"));
}

TEST_CASE("a diverging run stops without touching the weights") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.optimizer.params.lr = 1e300;
  SelfCommunicator world("world");
  TrainerOnRank on_rank(config, world);
  Trainer& trainer = on_rank.trainer;
  const auto weights = [&] {
    std::vector<double> values;
    for (const Parameter* parameter : trainer.parameters())
      values.insert(values.end(), parameter->weight.span<double>().begin(),
                    parameter->weight.span<double>().end());
    return values;
  };
  std::vector<double> before = weights();
  StepReport report = trainer.train_step();
  while (std::isfinite(report.lm_loss) && std::isfinite(report.grad_norm) && report.step < 10) {
    before = weights();
    report = trainer.train_step();
  }
  CHECK(report.outcome == StepOutcome::kNotFinite);
  CHECK(weights() == before);
  while (report.consecutive_skipped_steps < config.training.max_skipped_steps) {
    CHECK_NOTHROW(check_skipped_steps(config, report));
    report = trainer.train_step();
  }
  CHECK_THROWS_AS(check_skipped_steps(config, report), CollectiveError);
  CHECK(weights() == before);
}

TEST_CASE("the bias evens out what skewed routing begins with, and validation leaves it alone") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.train_batch_size = 32;
  config.moe.router = RouterKind::kSigmoid;
  config.moe.load_balancing_loss_coef = 0;
  config.model.initializer_range = 0.6;  // logits far apart
  SelfCommunicator world("world");
  // Mean over the last ten of 60 steps.
  const auto final_load = [&](double rate) {
    config.moe.router_bias_update_rate = rate;
    TrainerOnRank on_rank(config, world);
    double load = 0;
    while (on_rank.trainer.step() < 60) {
      const StepReport report = on_rank.trainer.train_step();
      if (report.step > 50) load += report.moe.expert_load_max_over_mean / 10;
    }
    const auto bias = [&] {
      std::vector<double> values;
      for (const StateTensor& state : on_rank.trainer.state())
        values.insert(values.end(), state.tensor.span<double>().begin(),
                      state.tensor.span<double>().end());
      return values;
    };
    const std::vector<double> before = bias();
    CHECK(before.size() == (rate > 0 ? 16 : 0));
    on_rank.trainer.validate(0);
    CHECK(bias() == before);
    return load;
  };
  const double without = final_load(0), with = final_load(0.01);
  CAPTURE(without, with);
  CHECK(without > 3);
  CHECK(with < 1.8);
}

TEST_CASE("statistics of each MoE layer, by hand") {
  RunConfig config;
  config.train_batch_size = 2;
  config.gradient_accumulation_steps = 1;
  config.data.sequence_length = 5;
  config.model.num_hidden_layers = 3;
  config.moe.num_experts = 4;
  config.moe.layer_freq = {1, 0, 1};
  StatisticsBuffer::Values values;  // of 10 tokens with two experts each
  values.balance_sum = {2.0, 6.0};
  values.z_sum = {10.0, 30.0};
  values.entropy_sum = {5.0, 12.0};
  values.expert_load = {4, 8, 0, 0, 8, 5, 5, 5, 5, 0};
  SelfCommunicator world("world");
  const MoeStatistics statistics = moe_statistics(config, values, world);
  CHECK(statistics.load_balancing_loss == 2);  // 8 / (2 layers * 2 sequences)
  CHECK(statistics.z_loss == 2);
  REQUIRE(statistics.layers.size() == 2);
  const MoeLayerStatistics &first = statistics.layers[0], &second = statistics.layers[1];
  CHECK(first.layer == 0);
  CHECK_THAT(first.expert_load_max_over_mean, Catch::Matchers::WithinRel(8 / 3.0, 1e-14));
  CHECK(first.router_entropy == 0.5);
  CHECK(first.dead_experts == 2);
  CHECK(first.dropped_fraction == 0.4);
  CHECK(second.layer == 2);
  CHECK(second.expert_load_max_over_mean == 1);
  CHECK(second.router_entropy == 1.2);
  CHECK(second.dead_experts == 0);
  CHECK(second.dropped_fraction == 0);
  CHECK(statistics.expert_load_max_over_mean == first.expert_load_max_over_mean);
  CHECK(statistics.dropped_fraction == 0.2);
  CHECK(moe_statistics(config, {}, world).layers.empty());
}
