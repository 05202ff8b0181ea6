// The grids of the equivalence proofs: generated, not typed. Every way to cut a number of ranks
// that the configuration allows.
#pragma once

#include <array>
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

// Everything that may change with the layout and must change no number: ZeRO stage, schedule,
// recomputation, sequence parallelism, overlap. Number `i` of a series in which neighbours differ
// and each value meets each of the others.
struct Variant {
  int zero_stage;
  ScheduleKind schedule;
  RecomputePolicy recompute;
  bool sequence_parallel;
  bool reduce_once_per_step;

  explicit Variant(size_t i)
      : zero_stage(static_cast<int>(i % 3)),
        schedule(kSchedules[i % 4]),
        recompute(kPolicies[i / 2 % 3]),
        sequence_parallel(i / 3 % 2 == 0),
        reduce_once_per_step(zero_stage == 2 && i % 5 == 4) {}

  void apply(RunConfig& config) const {
    config.zero_optimization.stage = zero_stage;
    config.zero_optimization.overlap_comm = zero_stage != 1;
    config.zero_optimization.reduce_once_per_step = reduce_once_per_step;
    config.activation_checkpointing.policy = recompute;
    config.parallelism.sequence_parallel = sequence_parallel;
    const bool has_stages = config.parallelism.pipeline_parallel_size > 1;
    config.pipeline.schedule = has_stages ? schedule : ScheduleKind::k1F1B;
    config.pipeline.virtual_stages =
        config.pipeline.schedule == ScheduleKind::kInterleaved1F1B ? 2 : 1;
  }
  std::string name() const {
    return fmt::format("ZeRO {}{}, schedule {}, recompute {}, sequence parallel {}", zero_stage,
                       reduce_once_per_step ? " once per step" : "", static_cast<int>(schedule),
                       static_cast<int>(recompute), sequence_parallel);
  }

 private:
  static constexpr std::array kSchedules = {ScheduleKind::k1F1B, ScheduleKind::kInterleaved1F1B,
                                            ScheduleKind::kZeroBubbleH1, ScheduleKind::kGPipe};
  static constexpr std::array kPolicies = {RecomputePolicy::kNone, RecomputePolicy::kSelective,
                                           RecomputePolicy::kFull};
};

// A layout with everything that may change with it.
struct GridJob {
  Layout layout;
  size_t variant = 0;

  RunConfig on(RunConfig config) const {
    config.parallelism = layout.parallelism();
    Variant(variant).apply(config);
    return config;
  }
  int ranks() const { return layout.dp * layout.tp * layout.pp; }
  std::string name() const { return layout.name() + ", " + Variant(variant).name(); }
};

}  // namespace switchyard::test
