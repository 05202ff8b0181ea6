#include "comm/process_grid.h"

#include <algorithm>

namespace switchyard {
namespace {

const GridSizes& checked(const GridSizes& sizes, int world_size) {
  const auto& [dp, tp, pp, ep, etp, kv_copies] = sizes;
  SY_CHECK(std::min({dp, tp, pp, ep, etp, kv_copies}) >= 1,
           "a grid of dp {} x tp {} x pp {}, ep {} x etp {}, kv copies {}: every axis has at least "
           "one rank",
           dp, tp, pp, ep, etp, kv_copies);
  SY_CHECK(sizes.world() == world_size, "a grid of dp {} x tp {} x pp {} over {} ranks", dp, tp, pp,
           world_size);
  SY_CHECK(dp * tp % (ep * etp) == 0, "ep {} x etp {} does not divide dp {} x tp {}", ep, etp, dp,
           tp);
  SY_CHECK(tp % kv_copies == 0, "{} copies of key/value heads do not divide tp {}", kv_copies, tp);
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
          .edp = in_stage / (sizes.etp * sizes.ep),
          .kv = in_stage % sizes.tp % sizes.kv_copies};
}

ProcessGrid::ProcessGrid(Communicator& world, const GridSizes& sizes, Backend* backend)
    : sizes_(checked(sizes, world.size())),
      me_(coordinates_of(world.rank(), sizes)),
      world_(world.split(0, world.rank(), "world")) {
  if (backend != nullptr) world_->use(*backend);
  // A group is the ranks that share every other coordinate of its cut: that is its color.
  const auto& [dp, tp, pp, ep, etp, edp, kv] = me_;
  const auto color = [](int outer, int size, int inner) { return outer * size + inner; };
  stage_ = world_->split(pp, world.rank(), "stage");
  tp_ = world_->split(color(pp, sizes.dp, dp), tp, "tp");
  dp_ = world_->split(color(pp, sizes.tp, tp), dp, "dp");
  pp_ = world_->split(color(dp, sizes.tp, tp), pp, "pp");
  kv_ = tp_->split(tp / sizes.kv_copies, kv, "kv");
  const bool is_end = pp == 0 || pp == sizes.pp - 1;
  tied_ = pp_->split(is_end ? 0 : pp, pp, "tied");
  ep_ = stage_->split(color(edp, sizes.etp, etp), ep, "ep");
  etp_ = stage_->split(color(edp, sizes.ep, ep), etp, "etp");
  edp_ = stage_->split(color(ep, sizes.etp, etp), edp, "edp");
}

std::string ProcessGrid::description() const {
  const std::string kv =
      sizes_.kv_copies > 1 ? fmt::format(", key/value heads in {} copies", sizes_.kv_copies) : "";
  return fmt::format("dp {} x tp {} x pp {}, experts: ep {} x etp {} x edp {}{}", sizes_.dp,
                     sizes_.tp, sizes_.pp, sizes_.ep, sizes_.etp, sizes_.edp(), kv);
}

}  // namespace switchyard
