// Where in the source a thread waits for others, for messages.
#pragma once

namespace cuda_emulator {

struct Place {
  const char* operation = nullptr;  // "__syncthreads"
  const char* file = nullptr;
  int line = 0;
};

}  // namespace cuda_emulator

// The last parameters of device functions: their caller's place.
#define CUDA_EMULATOR_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()
