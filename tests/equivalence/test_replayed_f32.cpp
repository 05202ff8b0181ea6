// f32: routing is discontinuous, so the reference's routing is recorded and replayed on every grid.
// Then losses and per-tensor gradients agree to 1e-5.
#include "equivalence/layouts.h"
#include "support/catch.h"
#include "support/training_job.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("layouts agree in f32 with replayed routing") {
  const TokenFixture tokens(320, 8, 29);
  for (const auto policy : {TokenDropPolicy::kDropless, TokenDropPolicy::kCapacity}) {
    RunConfig config = small_job_config(tokens.prefix());
    config.fp64.enabled = false;
    config.optimizer.params.lr = 5e-4;
    config.moe.token_drop_policy = policy;
    config.parallelism = {.data_parallel_size = 1, .expert_parallel_size = 1};
    RoutingLog routing;
    // f32 sums differ in the last bits with the grid; AdamW's first steps divide tiny gradients by
    // their own size, so weights part by more than the gradients do. Losses and gradients count.
    const JobOptions options = {.routing = &routing};
    JobResult reference = run_job_on_threads(config, 1, options);
    reference.weights.clear();
    routing.start_replay();
    for (const Layout& layout : layouts_of(4, config)) {
      config.parallelism = layout.parallelism();
      std::string where;
      const double worst =
          worst_difference(run_job_on_threads(config, 4, options), reference, where);
      CAPTURE(layout.name(), where);
      CHECK(worst <= 1e-5);
    }
  }
}

// The same step in both precisions: every layer's gradients, as f32 rounding leaves them.
TEST_CASE("a step in f32 is the step in f64 to the precision of f32") {
  const TokenFixture tokens(320, 8, 29);
  for (const int top_k : {1, 2}) {
    RunConfig config = small_job_config(tokens.prefix());
    config.moe.top_k = top_k;
    config.moe.num_shared_experts = 1;
    config.moe.token_drop_policy = TokenDropPolicy::kCapacity;
    RoutingLog routing;
    const JobOptions options = {.steps = 1, .gradient_steps = {1}, .routing = &routing};
    JobResult f64 = run_job_on_threads(config, 1, options);
    routing.start_replay();
    config.fp64.enabled = false;
    JobResult f32 = run_job_on_threads(config, 1, options);
    CHECK(relative_difference(f32.lm_loss, f64.lm_loss) <= 1e-6);
    f32.weights =
        f64.weights;  // AdamW's first step is the gradient's sign: not a question of precision
    std::string where;
    const double worst = worst_difference(f32, f64, where);
    CAPTURE(top_k, where);
    CHECK(worst <= 5e-6);
    CHECK(worst > 1e-9);  // it was f32 indeed
  }
}
