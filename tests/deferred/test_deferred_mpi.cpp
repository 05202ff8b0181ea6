// Deferred steps of MPI processes: the same numbers, bit for bit, as without.
#include "deferred/deferred_job.h"
#include "equivalence/layouts.h"
#include "support/catch.h"
#include "support/mpi_main.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("deferred steps of MPI processes are those done at once") {
  Communicator& world = mpi_world();
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.gradient_accumulation_steps = 2;
  config.train_batch_size = 16;
  const JobOptions options = {.steps = 2, .gradient_steps = {1, 2}};
  const std::vector<Layout> layouts = layouts_of(world.size(), config);
  for (size_t i = 0; i < layouts.size(); i += 2) {
    config.parallelism = layouts[i].parallelism();
    Variant(i).apply(config);
    const JobResult reference = run_job(config, world, options);
    const DeferredRank rank =
        run_deferred_rank(config, world, options, {.order = {RunOrder::Kind::kRandom, 100 * i}});
    CAPTURE(layouts[i].name(), Variant(i).name(), rank.reports);
    CHECK(rank.reports.empty());
    std::string where;
    if (world.rank() == 0) CHECK(worst_difference(rank.result, reference, where) == 0);
  }
}
