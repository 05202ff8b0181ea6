// Whole training steps on the deferred backend: what is queued comes to the same numbers, bit for
// bit, as what is done at once, as late as may be and in random orders; every order that matters is
// an event's; and the ranks' collectives never stand still.
#include <mutex>

#include "comm/thread_communicator.h"
#include "deferred/deferred_communicator.h"
#include "deferred/deferred_job.h"
#include "equivalence/layouts.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr RunOrder kLate = {};
RunOrder random_order(uint64_t seed) { return {RunOrder::Kind::kRandom, seed}; }

// Two micro-batches per step: pipelines have something to interleave, ZeRO 2 something to reduce.
RunConfig job_config(const TokenFixture& tokens) {
  RunConfig config = small_job_config(tokens.prefix());
  config.gradient_accumulation_steps = 2;
  config.train_batch_size = 16;
  config.model.num_hidden_layers = 4;  // two chunks for each of two stages
  config.moe.layer_freq = {1, 0, 1, 0};
  config.gradient_clipping = 0.5;
  return config;
}

const JobOptions kTwoSteps = {.steps = 2, .gradient_steps = {1, 2}};

void check_deferred(const RunConfig& config, int ranks, std::initializer_list<RunOrder> orders) {
  const JobResult reference = run_job_on_threads(config, ranks, kTwoSteps);
  for (const RunOrder& order : orders) {
    const DeferredJob job = run_deferred_job(config, ranks, kTwoSteps, {.order = order});
    std::string where;
    const double worst = worst_difference(job.result, reference, where);
    CAPTURE(static_cast<int>(order.kind), order.seed, where);
    CHECK(worst == 0);
    CHECK(job.reports == "");
    CHECK(job.standstill == "");
  }
}

// Every `stride`-th layout of so many ranks, each with another variant.
void check_layouts(RunConfig config, int ranks, size_t stride = 1) {
  const std::vector<Layout> layouts = layouts_of(ranks, config);
  for (size_t i = 0; i < layouts.size(); i += stride) {
    const Variant variant(i / stride);
    config.parallelism = layouts[i].parallelism();
    variant.apply(config);
    CAPTURE(layouts[i].name(), variant.name());
    check_deferred(config, ranks, {kLate, random_order(100 * i)});
  }
}

}  // namespace

TEST_CASE("deferred steps of one rank are those done at once") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.parallelism = Layout{}.parallelism();
  for (size_t i = 0; i < 6; ++i) {
    Variant(i).apply(config);
    CAPTURE(Variant(i).name());
    check_deferred(config, 1, {kLate, random_order(i)});
  }
}

TEST_CASE("deferred steps of two, four and eight ranks are those done at once") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.moe.num_shared_experts = 1;
  check_layouts(config, 2);
  check_layouts(config, 4);
  check_layouts(config, 8, 5);
}

TEST_CASE("deferred steps with capacity, wide scopes, tied embeddings and jitter") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.moe.token_drop_policy = TokenDropPolicy::kCapacity;
  config.moe.load_balancing_scope = config.moe.capacity_scope = BalanceScope::kMicroBatch;
  config.moe.input_jitter_eps = 0.05;
  config.model.tie_word_embeddings = true;
  check_layouts(config, 2);
}

TEST_CASE("deferred steps in bf16 with rounded messages") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.fp64.enabled = false;
  config.bf16.enabled = true;
  config.communication_data_type = ReductionType::kBF16;
  check_layouts(config, 2, 2);
}

TEST_CASE("deferred steps with routers that talk to each other") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.parallelism = Layout{.tp = 2, .etp = 2}.parallelism();
  RunConfig biased = config;
  biased.moe.router = RouterKind::kSigmoid;
  biased.moe.router_bias_update_rate = 0.01;
  check_deferred(biased, 2, {kLate, random_order(1)});
  RunConfig global = config;
  global.moe.load_balancing_scope = BalanceScope::kGlobalBatch;
  check_deferred(global, 2, {kLate, random_order(2)});
  RunConfig sinkhorn = config;
  sinkhorn.moe.router = RouterKind::kSinkhorn;
  sinkhorn.moe.load_balancing_loss_coef = 0;
  check_deferred(sinkhorn, 2, {kLate, random_order(3)});
}

TEST_CASE("deferred validation is that done at once") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.parallelism = Layout{.tp = 2, .pp = 2, .etp = 2}.parallelism();
  std::mutex mutex;
  std::vector<double> losses;
  std::string reports;
  for (const bool is_deferred : {false, true})
    run_ranks(4, [&](Communicator& threads) {
      DeferredBackend backend(random_order(5));
      double loss = 0;
      {
        DeferredCommunicator deferred(threads, backend);
        TrainerOnRank on_rank(config, is_deferred ? deferred : threads,
                              is_deferred ? &backend : nullptr);
        on_rank.trainer.train_step();
        loss = on_rank.trainer.validate(2).lm_loss;
      }
      const std::scoped_lock lock(mutex);
      losses.push_back(loss);
      for (const std::string& report : backend.reports()) reports += report + "\n";
    });
  CHECK(losses == std::vector<double>(losses.size(), losses[0]));
  CHECK(reports == "");
}

// Weights are still on their way then.
TEST_CASE("a trainer may go as soon as its step is over") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.parallelism = Layout{.tp = 2, .pp = 2, .etp = 2}.parallelism();
  config.zero_optimization.stage = 2;
  std::mutex mutex;
  std::string reports;
  run_ranks(4, [&](Communicator& threads) {
    DeferredBackend backend({});
    {
      DeferredCommunicator world(threads, backend);
      TrainerOnRank(config, world, &backend).trainer.train_step();
    }
    const std::scoped_lock lock(mutex);
    for (const std::string& report : backend.reports()) reports += report + "\n";
  });
  CHECK(reports == "");
}

// The mistake that the CPU backend can never show: numbers are right, because everything runs when
// it is asked for.
TEST_CASE("a wait that is left out is found, whichever communicator it is for") {
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = job_config(tokens);
  config.parallelism = Layout{.pp = 2}.parallelism();
  config.moe.load_balancing_scope = BalanceScope::kMicroBatch;
  config.zero_optimization.stage = 1;
  const auto run = [&](const std::string& forgotten) {
    return run_deferred_job(config, 2, {.steps = 2, .gradient_steps = {}},
                            {.order = {.kind = RunOrder::Kind::kAtOnce}, .forgotten = forgotten});
  };
  CHECK(run("").reports == "");
  for (const char* name : {"tp", "dp", "pp", "ep", "etp", "edp", "stage", "world"}) {
    CAPTURE(name);
    CHECK_THAT(run(name).reports, contains_text(fmt::format("{}: ", name)));
  }
}
