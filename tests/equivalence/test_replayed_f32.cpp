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
    config.moe.token_drop_policy = policy;
    config.parallelism = {.data_parallel_size = 1, .expert_parallel_size = 1};
    RoutingLog routing;
    // f32 sums differ in the last bits with the grid; AdamW's first steps divide tiny gradients by
    // their own size, so weights part by more than the gradients do. Losses and gradients count.
    const JobOptions options = {.routing = &routing};
    JobResult reference = run_job_on_threads(config, 1, options);
    reference.weights.clear();
    routing.start_replay();
    for (const Layout& layout : kLayouts) {
      config.parallelism = {.data_parallel_size = layout.dp, .expert_parallel_size = layout.ep};
      std::string where;
      const double worst =
          worst_difference(run_job_on_threads(config, layout.dp, options), reference, where);
      CAPTURE(layout.dp, layout.ep, where);
      CHECK(worst <= 1e-5);
    }
  }
}
