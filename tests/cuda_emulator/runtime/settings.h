// What the environment says about the emulated machine:
//   SWITCHYARD_CUDA_MODE     when operations run, all of it legal on a GPU:
//                            eager   at once, when they are issued (the default)
//                            lazy    when something waits for them, and then only what it needs
//                            random  at calls of CUDA, in an order drawn by the seed
//   SWITCHYARD_CUDA_ORDER    of blocks and threads: forward (the default), reverse, random
//   SWITCHYARD_CUDA_SEED     of both randoms; each rank of a job has its own
//   SWITCHYARD_CUDA_DEVICES  GPUs of the machine (1), of which CUDA_VISIBLE_DEVICES chooses
//   SWITCHYARD_CUDA_MEMORY   bytes of each GPU (8 GiB)
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cuda_emulator {

enum class Mode { kEager, kLazy, kRandom };

struct Settings {
  Mode mode = Mode::kEager;
  uint64_t seed = 1;
  std::vector<int> devices;  // of each visible device, its number in the machine
  size_t memory_bytes = size_t{8} << 30;
};

// Read at the first call.
const Settings& settings();

}  // namespace cuda_emulator
