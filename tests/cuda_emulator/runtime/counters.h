// Counts what the process asks of the emulated GPU: cuda_emulator/counters.h.
#pragma once

#include <cstdint>

#include "cuda_emulator/counters.h"

namespace cuda_emulator {

// `what` outlives the process.
void count(cuda_emulator_kind kind, const char* what, uint64_t amount = 0);

}  // namespace cuda_emulator
