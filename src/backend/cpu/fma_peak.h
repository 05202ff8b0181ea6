// The FMA peak of this machine, measured: the floor against which CPU speed is reported.
#pragma once

#include "core/dtype.h"

namespace switchyard {

// FLOP/s of `num_threads` threads doing nothing but fused multiply-adds on registers (best of
// several runs of about a millisecond).
double measure_fma_peak(DType real, int num_threads);

}  // namespace switchyard
