// The device that is current on the calling thread.
#pragma once

namespace cuda_emulator {

int current_device();

}  // namespace cuda_emulator
