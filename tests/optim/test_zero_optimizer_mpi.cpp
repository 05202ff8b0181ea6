// The optimizer between MPI processes, whose collectives really are under way while others run.
#include <chrono>

#include "optim/optimizer_job.h"
#include "support/catch.h"
#include "support/mpi_main.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Two units, large enough for messages that need both sides to move.
struct LargeParameters {
  Parameter first = dense_parameter("first", {600, 1000});
  Parameter second = dense_parameter("second", {700, 1000});
  LargeParameters() { second.unit = 1; }
};

}  // namespace

TEST_CASE("zero between processes: every stage takes the plain steps") {
  const int n = mpi_world().size();
  std::vector<GridSizes> grids = {{.dp = n}, {.dp = n, .ep = n}, {.dp = n / 2, .tp = 2, .etp = 2}};
  if (n == 4) grids.push_back({.dp = 2, .pp = 2, .ep = 2});
  for (const GridSizes& sizes : grids)
    for (int stage = 0; stage <= 2; ++stage)
      for (const Freezing freezing : {Freezing::kNothing, Freezing::kSomeExperts})
        for (const bool overlap : {true, false}) {
          const OptimizerCase what = {.sizes = sizes,
                                      .stage = stage,
                                      .overlap = overlap,
                                      .accumulation = 2,
                                      .max_norm = 1.0,
                                      .freezing = freezing};
          INFO(what.text());
          CHECK_NOTHROW(check_follows_plain(mpi_world(), what));
        }
}

TEST_CASE("zero between processes: bf16 weights and messages") {
  for (int stage = 0; stage <= 2; ++stage) {
    const OptimizerCase what = {.sizes = {.dp = mpi_world().size()},
                                .stage = stage,
                                .real = DType::kBF16,
                                .messages = ReductionType::kBF16,
                                .accumulation = 2};
    INFO(what.text());
    CHECK_NOTHROW(check_follows_plain(mpi_world(), what));
  }
}

TEST_CASE("zero between processes: without overlap nothing is under way between hooks") {
  for (int stage = 0; stage <= 2; ++stage) {
    OptimizerJob job(mpi_world(),
                     {.sizes = {.dp = mpi_world().size()}, .stage = stage, .overlap = false});
    const UnitHooks hooks = job.optimizer().hooks();
    job.optimizer().begin_step();
    for (int unit = DeclaredParameters::kNumUnits; unit-- > 0;) {
      hooks.before_gradients(unit);
      hooks.after_gradients(unit, true);
      CHECK(job.optimizer().is_reduction_idle());
    }
    job.optimizer().finish_reduction();
  }
}

TEST_CASE("zero between processes: a reduction ends while the backward pass goes on") {
  Communicator& world = mpi_world();
  for (int stage = 0; stage <= 2; ++stage) {
    const OptimizerCase what = {.sizes = {.dp = world.size()}, .stage = stage};
    const RunConfig config = what.config();
    CpuBackend backend(1);
    const ProcessGrid grid(world, what.sizes, &backend);
    LargeParameters parameters;
    ZeroOptimizer optimizer(backend, grid, config, {&parameters.first, &parameters.second});
    const UnitHooks hooks = optimizer.hooks();
    optimizer.begin_step();
    hooks.before_gradients(1);
    backend.ops().fill(backend.compute_queue(), parameters.second.gradient(), 1.0 + world.rank());
    hooks.after_gradients(1, true);
    // Nobody waits: the hooks of other units let the messages move.
    const double deadline_s = now_s() + 30;
    while (!optimizer.is_reduction_idle() && now_s() < deadline_s) hooks.before_forward(0);
    CAPTURE(stage);
    CHECK(optimizer.is_reduction_idle());
    hooks.before_gradients(0);
    hooks.after_gradients(0, true);
    optimizer.finish_reduction();
    const double sum = world.size() * (world.size() + 1) / 2.0;
    for (const double g : optimizer.gradient_of(parameters.second)) REQUIRE(g == sum);
    for (const double g : optimizer.gradient_of(parameters.first)) REQUIRE(g == 0.0);
  }
}
