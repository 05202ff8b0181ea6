// Waiting for the lanes of a warp. All motion of data between lanes happens in the engine, on raw
// bits: instrumented code would look like a race to ThreadSanitizer.
#pragma once

#include "cuda_emulator/place.h"

namespace cuda_emulator {

// Called once, by the lane that comes last, with the data of all lanes in the mask.
using Combine = void(void* const* of_lane, unsigned mask);
void warp_operation(unsigned mask, void* data, Combine* combine, const Place& place);

template <typename Function>
void for_lanes(unsigned mask, const Function& function) {
  for (; mask != 0; mask &= mask - 1) function(__builtin_ctz(mask));
}

}  // namespace cuda_emulator
