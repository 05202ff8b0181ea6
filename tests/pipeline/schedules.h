// The sweep of schedules that every test of pipeline/ goes through.
#pragma once

#include <functional>

#include "pipeline/schedule.h"

namespace switchyard::test {

inline std::vector<ScheduleSpec> all_schedules() {
  std::vector<ScheduleSpec> specs;
  for (int p = 1; p <= 6; ++p)
    for (int m = 1; m <= 13; ++m) {
      for (const ScheduleKind kind :
           {ScheduleKind::kGPipe, ScheduleKind::k1F1B, ScheduleKind::kZeroBubbleH1})
        specs.push_back({kind, p, m, 1});
      for (int v = 1; v <= (p == 1 ? 1 : 4); ++v)
        specs.push_back({ScheduleKind::kInterleaved1F1B, p, m, v});
    }
  return specs;
}

inline std::string described(const ScheduleSpec& spec) {
  return "kind " + std::to_string(static_cast<int>(spec.kind)) + ", p " +
         std::to_string(spec.num_stages) + ", m " + std::to_string(spec.num_micro_batches) +
         ", v " + std::to_string(spec.num_chunks);
}

}  // namespace switchyard::test
