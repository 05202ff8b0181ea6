// Kernels with a bug, and the same kernels without it.
#pragma once

#include <cuda_runtime_api.h>

#include <span>
#include <string>

namespace switchyard::test {

struct DeviceBug {
  std::string name;
  // Runs the kernel with or without its bug; whether its results are right.
  bool (*run)(cudaStream_t stream, bool broken);
};
std::span<const DeviceBug> device_bugs();

}  // namespace switchyard::test
