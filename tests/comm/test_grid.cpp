#include "comm/grid_checks.h"
#include "comm/process_grid.h"
#include "comm/thread_communicator.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("every grid of 1 to 8 ranks, between threads") {
  // Over the divisors n = dp * tp of W: the pairs of product n times the triples of product n.
  const int expected_grids[] = {1, 7, 7, 25, 7, 49, 7, 65};
  for (int ranks = 1; ranks <= 8; ++ranks) {
    int num_grids = 0;
    run_ranks(ranks, [&](Communicator& world) {
      const int checked = check_all_grids(world);
      if (world.rank() == 0) num_grids = checked;
    });
    CHECK(num_grids == expected_grids[ranks - 1]);
  }
}

TEST_CASE("the order of axes, spelled out") {
  const GridSizes sizes{.dp = 2, .tp = 2, .pp = 2, .ep = 2, .etp = 1};
  const GridCoordinates seven = coordinates_of(7, sizes), two = coordinates_of(2, sizes);
  CHECK((seven.tp == 1 && seven.dp == 1 && seven.pp == 1));
  CHECK((two.tp == 0 && two.dp == 1 && two.pp == 0));
  CHECK((two.etp == 0 && two.ep == 0 && two.edp == 1));
  CHECK((sizes.world() == 8 && sizes.edp() == 2));
  const GridSizes copies{.tp = 4, .kv_copies = 2};  // of the first head on 0 and 1, ...
  CHECK((coordinates_of(2, copies).kv == 0 && coordinates_of(3, copies).kv == 1));
}

TEST_CASE("sizes that do not fit") {
  const auto make = [](const GridSizes& sizes) {
    return [=] { run_ranks(4, [&](Communicator& world) { ProcessGrid grid(world, sizes); }); };
  };
  CHECK_THROWS_WITH(make({.dp = 3})(), contains_text("dp 3 x tp 1 x pp 1 over 4 ranks"));
  CHECK_THROWS_WITH(make({.dp = 4, .ep = 3})(), contains_text("ep 3 x etp 1 does not divide dp 4"));
  CHECK_THROWS_WITH(make({.tp = 4, .kv_copies = 3})(),
                    contains_text("3 copies of key/value heads"));
  CHECK_THROWS_WITH(make({.dp = 4, .etp = 0})(), contains_text("at least one rank"));
}
