#include "comm/grid_checks.h"

#include <functional>
#include <vector>

#include "comm/process_grid.h"

namespace switchyard::test {
namespace {

bool operator==(const GridCoordinates& a, const GridCoordinates& b) {
  return a.dp == b.dp && a.tp == b.tp && a.pp == b.pp && a.ep == b.ep && a.etp == b.etp &&
         a.edp == b.edp && a.kv == b.kv;
}

// The coordinates of all ranks, by counting: the ranks of a world in order, the first named axis
// fastest, first for the dense cut and then, once more, for the experts' cut of each stage.
std::vector<GridCoordinates> enumerate(const GridSizes& sizes) {
  std::vector<GridCoordinates> ranks;
  for (int p = 0; p < sizes.pp; ++p)
    for (int d = 0; d < sizes.dp; ++d)
      for (int t = 0; t < sizes.tp; ++t)
        ranks.push_back({.dp = d, .tp = t, .pp = p, .kv = t % sizes.kv_copies});
  auto rank = ranks.begin();
  for (int p = 0; p < sizes.pp; ++p)
    for (int f = 0; f < sizes.dp * sizes.tp / (sizes.ep * sizes.etp); ++f)
      for (int e = 0; e < sizes.ep; ++e)
        for (int x = 0; x < sizes.etp; ++x, ++rank) {
          rank->edp = f;
          rank->ep = e;
          rank->etp = x;
        }
  return ranks;
}

using Pick = std::function<int(const GridCoordinates&)>;

// The group must be the ranks that agree with me on every `shared` coordinate, ordered by world
// rank (which is the order along the axis), with me at my coordinate.
void check_group(Communicator& group, int my_coordinate, const std::vector<GridCoordinates>& ranks,
                 int me, const std::vector<Pick>& shared, const std::string& grid) {
  std::vector<int64_t> expected;
  for (size_t other = 0; other < ranks.size(); ++other) {
    bool together = true;
    for (const Pick& pick : shared) together = together && pick(ranks[other]) == pick(ranks[me]);
    if (together) expected.push_back(static_cast<int64_t>(other));
  }
  const std::vector<int64_t> members = group.all_gather_host(me);
  SY_CHECK(members == expected, "{}: {} of rank {} has ranks {}, not {}", grid, group.name(), me,
           fmt::join(members, ","), fmt::join(expected, ","));
  SY_CHECK(group.rank() == my_coordinate, "{}: rank {} is number {} of its {} group, not {}", grid,
           me, group.rank(), group.name(), my_coordinate);
}

void check_grid(Communicator& world, const GridSizes& sizes) {
  const ProcessGrid grid(world, sizes);
  const std::vector<GridCoordinates> ranks = enumerate(sizes);
  const int rank = world.rank();
  const GridCoordinates& me = ranks[rank];
  const std::string name = grid.description();
  SY_CHECK(grid.me() == me, "{}: wrong coordinates of rank {}", name, rank);
  for (size_t other = 0; other < ranks.size(); ++other)
    SY_CHECK(coordinates_of(static_cast<int>(other), sizes) == ranks[other],
             "{}: wrong coordinates_of({})", name, other);

  const Pick dp = &GridCoordinates::dp, tp = &GridCoordinates::tp, pp = &GridCoordinates::pp;
  const Pick ep = &GridCoordinates::ep, etp = &GridCoordinates::etp, edp = &GridCoordinates::edp;
  check_group(grid.dp(), me.dp, ranks, rank, {tp, pp}, name);
  check_group(grid.tp(), me.tp, ranks, rank, {dp, pp}, name);
  check_group(grid.pp(), me.pp, ranks, rank, {dp, tp}, name);
  check_group(grid.ep(), me.ep, ranks, rank, {pp, etp, edp}, name);
  check_group(grid.etp(), me.etp, ranks, rank, {pp, ep, edp}, name);
  check_group(grid.edp(), me.edp, ranks, rank, {pp, ep, etp}, name);
  check_group(grid.stage(), me.tp + sizes.tp * me.dp, ranks, rank, {pp}, name);
  const Pick head = [&](const GridCoordinates& c) { return c.tp / sizes.kv_copies; };
  check_group(grid.kv(), me.kv, ranks, rank, {dp, pp, head}, name);
  const int last = sizes.pp - 1;
  const Pick end = [&](const GridCoordinates& c) { return c.pp == last ? 0 : c.pp; };
  check_group(grid.tied(), last > 0 && me.pp == last ? 1 : 0, ranks, rank, {dp, tp, end}, name);
  check_group(grid.world(), rank, ranks, rank, {}, name);
}

}  // namespace

int check_all_grids(Communicator& world) {
  int num_grids = 0;
  const int W = world.size();
  for (int dp = 1; dp <= W; ++dp)
    for (int tp = 1; dp * tp <= W; ++tp)
      for (int ep = 1; W % (dp * tp) == 0 && ep <= dp * tp; ++ep)
        for (int etp = 1; ep * etp <= dp * tp; ++etp) {
          if (dp * tp % (ep * etp) != 0) continue;
          GridSizes sizes{.dp = dp, .tp = tp, .pp = W / (dp * tp), .ep = ep, .etp = etp};
          for (sizes.kv_copies = 1; sizes.kv_copies <= tp; ++sizes.kv_copies)
            if (tp % sizes.kv_copies == 0) check_grid(world, sizes);
          ++num_grids;
        }
  return num_grids;
}

}  // namespace switchyard::test
