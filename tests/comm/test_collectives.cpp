// Collectives between threads, and of a rank alone.
#include "comm/collective_checks.h"
#include "comm/self_communicator.h"
#include "comm/thread_communicator.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("collectives of a rank alone") {
  SelfCommunicator self("self");
  CHECK_NOTHROW(check_collectives(self));
  CHECK_NOTHROW(check_collectives(*self.split(3, 0, "part")));
}

TEST_CASE("collectives between threads") {
  for (const int ranks : {1, 2, 3, 8}) CHECK_NOTHROW(run_ranks(ranks, check_collectives));
}

TEST_CASE("collectives between threads in groups of a split") {
  for (const int ranks : {5, 8}) CHECK_NOTHROW(run_ranks(ranks, check_collectives_of_subgroups));
}
