#include "comm/grid_checks.h"
#include "support/catch.h"
#include "support/mpi_main.h"

using namespace switchyard::test;

TEST_CASE("every grid of this rank count, between processes") {
  CHECK(check_all_grids(mpi_world()) > 0);
}
