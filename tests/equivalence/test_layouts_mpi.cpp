// The same truth through real MPI processes: every grid of this rank count against one rank, whose
// job every process runs for itself.
#include "comm/self_communicator.h"
#include "equivalence/layouts.h"
#include "support/catch.h"
#include "support/mpi_main.h"
#include "support/training_job.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("MPI layouts agree with one rank") {
  Communicator& world = mpi_world();
  const TokenFixture tokens(320, 8, 29);
  for (const auto policy : {TokenDropPolicy::kDropless, TokenDropPolicy::kCapacity}) {
    RunConfig config = small_job_config(tokens.prefix());
    config.moe.token_drop_policy = policy;
    config.moe.load_balancing_scope = BalanceScope::kMicroBatch;
    config.parallelism = {.data_parallel_size = 1, .expert_parallel_size = 1};
    SelfCommunicator self("self");
    const JobResult reference = run_job(config, self, {});
    for (const Layout& layout : layouts_of(world.size(), config)) {
      config.parallelism = layout.parallelism();
      const JobResult job = run_job(config, world, {});
      if (world.rank() != 0) continue;
      std::string where;
      const double worst = worst_difference(job, reference, where);
      CAPTURE(layout.name(), where);
      CHECK(worst <= 1e-9);
    }
  }
}
