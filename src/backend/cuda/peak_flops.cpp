#include "backend/cuda/peak_flops.h"

namespace switchyard {
namespace {

// FLOPs of one multiprocessor in one cycle, a fused multiply-add being two (CUDA C++ Programming
// Guide, "Arithmetic Instructions", and the whitepapers of each architecture for tensor cores).
struct FlopsPerCycle {
  int compute_capability;
  double bf16, f32, f64;
};
constexpr FlopsPerCycle kTable[] = {
    {80, 2048, 128, 128},   // A100
    {86, 1024, 256, 4},     // A40, RTX A6000
    {89, 1024, 256, 4},     // L40S
    {90, 4096, 256, 256},   // H100, H200
    {100, 8192, 256, 128},  // B200
    {120, 1024, 256, 4},    // RTX PRO 6000
};

}  // namespace

double theoretical_peak_flops(const GpuSpeed& gpu, DType real) {
  FlopsPerCycle best = kTable[0];
  for (const FlopsPerCycle& row : kTable)
    if (row.compute_capability <= gpu.compute_capability) best = row;
  const double per_cycle = real == DType::kBF16  ? best.bf16
                           : real == DType::kF64 ? best.f64
                                                 : best.f32;
  return per_cycle * gpu.num_multiprocessors * gpu.clock_hz;
}

}  // namespace switchyard
