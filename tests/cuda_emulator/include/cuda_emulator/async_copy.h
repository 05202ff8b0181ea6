// Twins of the asynchronous copies that backend/cuda/device.cuh wraps: PTX ISA, "Non-bulk copy".
// A copy may happen at any moment between its issue and the wait for its group. So the target is
// filled with 0xFF at the issue and with the data at the wait: who reads too early, or overwrites
// too early, gets a wrong result.
#pragma once

#include "cuda_emulator/place.h"

namespace cuda_emulator {

void start_copy(void* shared, const void* global, bool valid, const Place& place);
void commit_copies();
void wait_for_copies(int newest);  // all but the newest groups

}  // namespace cuda_emulator

namespace switchyard::cuda {

inline void cp_async_16(void* shared, const void* global, bool valid, CUDA_EMULATOR_CALLER) {
  ::cuda_emulator::start_copy(shared, global, valid, {"cp_async_16", file, line});
}
inline void cp_async_commit() { ::cuda_emulator::commit_copies(); }
template <int kNewest>
inline void cp_async_wait() {
  ::cuda_emulator::wait_for_copies(kNewest);
}

}  // namespace switchyard::cuda
