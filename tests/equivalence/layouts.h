// The grids of the equivalence proofs: generated, not typed. Every way to cut a number of ranks
// that the configuration allows.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "core/error.h"

namespace switchyard::test {

struct Layout {
  int dp = 1, tp = 1, pp = 1, ep = 1, etp = 1;

  ParallelismConfig parallelism() const {
    return {.data_parallel_size = dp,
            .tensor_parallel_size = tp,
            .pipeline_parallel_size = pp,
            .expert_parallel_size = ep,
            .expert_tensor_parallel_size = etp};
  }
  std::string name() const {
    return fmt::format("dp {} tp {} pp {} ep {} etp {}", dp, tp, pp, ep, etp);
  }
};

inline bool is_valid(RunConfig config, const Layout& layout) {
  config.parallelism = layout.parallelism();
  try {
    resolve(config, layout.dp * layout.tp * layout.pp);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// All layouts of `ranks` ranks that `config` (whatever its own grid) can be trained on.
inline std::vector<Layout> layouts_of(int ranks, const RunConfig& config) {
  std::vector<Layout> layouts;
  for (int tp = 1; tp <= ranks; ++tp)
    for (int pp = 1; tp * pp <= ranks; ++pp)
      for (int ep = 1; ep <= ranks / pp; ++ep)
        for (int etp = 1; ep * etp <= ranks / pp; ++etp) {
          if (ranks % (tp * pp) != 0) continue;
          const Layout layout = {ranks / (tp * pp), tp, pp, ep, etp};
          if (is_valid(config, layout)) layouts.push_back(layout);
        }
  return layouts;
}

}  // namespace switchyard::test
