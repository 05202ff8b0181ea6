#include "comm/process_grid.h"

#include <algorithm>

namespace switchyard {
namespace {

const GridSizes& checked(const GridSizes& sizes, int world_size) {
  const auto& [dp, tp, pp, ep, etp] = sizes;
  SY_CHECK(std::min({dp, tp, pp, ep, etp}) >= 1,
           "a grid of dp {} x tp {} x pp {}, ep {} x etp {}: every axis has at least one rank", dp,
           tp, pp, ep, etp);
  SY_CHECK(sizes.world() == world_size, "a grid of dp {} x tp {} x pp {} over {} ranks", dp, tp, pp,
           world_size);
  SY_CHECK(dp * tp % (ep * etp) == 0, "ep {} x etp {} does not divide dp {} x tp {}", ep, etp, dp,
           tp);
  return sizes;
}

}  // namespace

GridCoordinates coordinates_of(int rank, const GridSizes& sizes) {
  const int stage_size = sizes.dp * sizes.tp, in_stage = rank % stage_size;
  return {.dp = in_stage / sizes.tp,
          .tp = in_stage % sizes.tp,
          .pp = rank / stage_size,
          .ep = in_stage / sizes.etp % sizes.ep,
          .etp = in_stage % sizes.etp,
          .edp = in_stage / (sizes.etp * sizes.ep)};
}

ProcessGrid::ProcessGrid(Communicator& world, const GridSizes& sizes)
    : sizes_(checked(sizes, world.size())),
      me_(coordinates_of(world.rank(), sizes)),
      world_(world) {
  // A group is the ranks that share every other coordinate of its cut: that is its color.
  const auto& [dp, tp, pp, ep, etp, edp] = me_;
  const auto color = [](int outer, int size, int inner) { return outer * size + inner; };
  stage_ = world.split(pp, world.rank(), "stage");
  tp_ = world.split(color(pp, sizes.dp, dp), tp, "tp");
  dp_ = world.split(color(pp, sizes.tp, tp), dp, "dp");
  pp_ = world.split(color(dp, sizes.tp, tp), pp, "pp");
  ep_ = stage_->split(color(edp, sizes.etp, etp), ep, "ep");
  etp_ = stage_->split(color(edp, sizes.ep, ep), etp, "etp");
  edp_ = stage_->split(color(ep, sizes.etp, etp), edp, "edp");
}

std::string ProcessGrid::description() const {
  return fmt::format("dp {} x tp {} x pp {}, experts: ep {} x etp {} x edp {}", sizes_.dp,
                     sizes_.tp, sizes_.pp, sizes_.ep, sizes_.etp, sizes_.edp());
}

}  // namespace switchyard
