// f32: routing is discontinuous, so the reference's routing is recorded and replayed on every grid.
// Then losses, gradients and weights agree to 1e-5.
//
// AdamW with its usual eps of 1e-8 is as good as discontinuous: it divides a gradient by its own
// size, even one that is nothing but rounding. At eps 1e-8 the first step moved 2 of 16,656
// weights, whose gradients were 1e-8 of the largest of their tensor, by 0.11 lr more on one grid
// than on another; after 20 steps the worst gradient of any grid was 3.1e-4 off, the worst weight
// 1.6e-3. One rank parts from itself in the same way, in f64, when its initial weights change in
// the eighth digit (the second test): it is not the grid. With an eps of 1e-2, a tenth of what the
// largest gradients are, a step is a smooth function of the gradient, and the worst of any grid is
// 6.8e-6, where rounding alone leaves 2.4e-6 (measured with a learning rate of 0).
#include "equivalence/layouts.h"
#include "support/catch.h"
#include "support/training_job.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr double kSmooth = 1e-2;  // AdamW's eps

}  // namespace

TEST_CASE("layouts agree in f32 with replayed routing") {
  const TokenFixture tokens(320, 8, 29);
  for (const auto policy : {TokenDropPolicy::kDropless, TokenDropPolicy::kCapacity}) {
    RunConfig config = small_job_config(tokens.prefix());
    config.fp64.enabled = false;
    config.optimizer.params.eps = kSmooth;
    config.moe.token_drop_policy = policy;
    config.parallelism = Layout{}.parallelism();
    RoutingLog routing;
    const JobOptions options = {.routing = &routing};
    const JobResult reference = run_job_on_threads(config, 1, options);
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

TEST_CASE("it is AdamW with a tiny eps that makes runs part, on one rank and in f64 as well") {
  const TokenFixture tokens(320, 8, 29);
  const auto change = [&](double eps) {  // of the last gradients, by one of 1e-7 in the weights
    RunConfig config = small_job_config(tokens.prefix());
    config.optimizer.params.eps = eps;
    config.parallelism = Layout{}.parallelism();
    RoutingLog routing;
    const JobOptions options = {.gradient_steps = {20}, .routing = &routing};
    const JobResult reference = run_job_on_threads(config, 1, options);
    routing.start_replay();
    config.model.initializer_range *= 1 + 1e-7;
    std::string where;
    return worst_difference(run_job_on_threads(config, 1, options), reference, where);
  };
  CHECK(change(1e-8) > 1e-4);     // measured: 1.8e-3
  CHECK(change(kSmooth) < 2e-6);  // 7.6e-7
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
