// NvtxRanges: the marks of progress as ranges for NVIDIA's profilers: a phase of the step
// ("forward"), and in it the layer at hand. Costs next to nothing where no profiler looks.
#pragma once

#include "core/progress_page.h"

namespace switchyard {

class NvtxRanges {
 public:
  NvtxRanges() = default;
  ~NvtxRanges();
  NvtxRanges(const NvtxRanges&) = delete;
  NvtxRanges& operator=(const NvtxRanges&) = delete;

  // What Progress::follow() calls.
  void at(const ProgressHead& head, EventKind mark);

 private:
  void end_down_to(int depth);

  int depth_ = 0;  // ranges that are open: none, a phase, a phase and a layer
};

}  // namespace switchyard
