// RoutingLog: the experts' choice of whole runs, recorded on one grid and replayed on another.
//
// In f32 routing is discontinuous: a last-bit difference flips a near-tie now and then, and the
// runs part. Proofs that two grids compute the same therefore record the reference's routing and
// replay it (src/README.md, "Numerics"). Lives on the host; used by tests and proofs only.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace switchyard {

class RoutingLog {
 public:
  // What one MoE layer did with the rows of one global micro-batch; A entries per row.
  struct Routes {
    std::vector<int32_t> expert;  // the top-k choice
    std::vector<int32_t> kept;    // the same, -1 where the expert was full
  };

  // `stream`: index of the micro-batch since the start of training (Pass::random_stream).
  void record(int64_t stream, int layer, Routes routes) {
    routes_[{stream, layer}] = std::move(routes);
  }
  const Routes& at(int64_t stream, int layer) const { return routes_.at({stream, layer}); }

  bool replaying() const { return replaying_; }
  void start_replay() { replaying_ = true; }

 private:
  std::map<std::pair<int64_t, int>, Routes> routes_;
  bool replaying_ = false;
};

}  // namespace switchyard
