// Collectives between MPI processes.
#include "comm/collective_checks.h"
#include "support/catch.h"
#include "support/host_tensor.h"
#include "support/mpi_main.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("collectives between processes") { check_collectives(mpi_world()); }

TEST_CASE("collectives between processes in groups of a split") {
  check_collectives_of_subgroups(mpi_world());
}

TEST_CASE("a message of another length is an error") {
  Communicator& world = mpi_world();
  if (world.size() == 1) return;  // Open MPI cuts a rank's messages to itself without an error
  const int next = (world.rank() + 1) % world.size();
  const int previous = (world.rank() + world.size() - 1) % world.size();
  HostTensor<float> four({4}), three({3}), eight({8});
  const Message sends[] = {{four, next}};
  const Message short_receives[] = {{three, previous}}, long_receives[] = {{eight, previous}};
  CHECK_THROWS_WITH(world.send_receive(sends, short_receives), contains_text("MPI_ERR_TRUNCATE"));
  CHECK_THROWS_WITH(world.send_receive(sends, long_receives), contains_text("16 bytes, not 32"));
}
