// Weights on disk through real MPI processes.
#include "checkpoint/weights.h"
#include "comm/self_communicator.h"
#include "equivalence/layouts.h"
#include "support/catch.h"
#include "support/mpi_main.h"
#include "support/training_job.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("MPI ranks write the file that one rank writes, and read it") {
  Communicator& world = mpi_world();
  const TokenFixture tokens(320, 8, 29);
  RunConfig config = small_job_config(tokens.prefix());
  config.model.tie_word_embeddings = true;
  config.parallelism = Layout{}.parallelism();
  std::string path = tokens.prefix() + ".safetensors";  // rank 0's, for all
  world.broadcast_host(path, 0);
  const auto save = [&](Communicator& ranks, const std::string& to) {
    TrainerOnRank on_rank(config, ranks);
    save_weights(to, on_rank.trainer.parameters(), on_rank.trainer.state(), on_rank.backend, ranks);
  };
  SelfCommunicator self("self");
  if (world.rank() == 0) save(self, path);
  world.barrier();
  const std::string reference = read_bytes(path);
  for (const Layout& layout : layouts_of(world.size(), config)) {
    CAPTURE(layout.name());
    config.parallelism = layout.parallelism();
    save(world, path + ".grid");
    world.barrier();
    CHECK(read_bytes(path + ".grid") == reference);
    TrainerOnRank other(config, world);
    other.trainer.train_step();
    load_weights(path, other.trainer.parameters(), other.trainer.state(), other.backend);
    save_weights(path + ".loaded", other.trainer.parameters(), other.trainer.state(), other.backend,
                 world);
    world.barrier();
    CHECK(read_bytes(path + ".loaded") == reference);
    world.barrier();
  }
}
