// What a GPU could do at best, from NVIDIA's tables: theoretical, with dense tensor cores at the
// highest clock. No GPU holds that clock under load, so no kernel comes near it.
#pragma once

#include "core/dtype.h"

namespace switchyard {

struct GpuSpeed {
  int compute_capability = 0;  // 90 for sm_90
  int num_multiprocessors = 0;
  double clock_hz = 0;
};

// FLOP/s in the arithmetic that products of `real` have: bf16 on tensor cores with f32 sums, f32
// without them (no TF32), f64 on tensor cores where the GPU has such. A capability that is not in
// the table counts as the nearest below.
double theoretical_peak_flops(const GpuSpeed& gpu, DType real);

}  // namespace switchyard
