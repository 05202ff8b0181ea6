#include "backend/cuda/nvtx_ranges.h"

#include <fmt/format.h>
#include <nvtx3/nvToolsExt.h>

#include <string>

namespace switchyard {
namespace {

constexpr int kPhase = 1;  // depths

// As model/unit_hooks.h counts them.
std::string unit_name(const ProgressHead& head) {
  if (head.unit == 0) return "embedding";
  return head.unit == 1 + head.num_layers ? "head" : fmt::format("layer {}", head.unit - 1);
}

}  // namespace

NvtxRanges::~NvtxRanges() { end_down_to(0); }

void NvtxRanges::at(const ProgressHead& head, EventKind mark) {
  if (mark == EventKind::kPhase) {
    end_down_to(0);
    nvtxRangePushA(std::string(name_of(head.phase)).c_str());
    ++depth_;
  } else if (mark == EventKind::kUnit) {
    end_down_to(kPhase);
    nvtxRangePushA(unit_name(head).c_str());
    ++depth_;
  }
}

void NvtxRanges::end_down_to(int depth) {
  for (; depth_ > depth; --depth_) nvtxRangePop();
}

}  // namespace switchyard
