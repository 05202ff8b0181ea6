// Devices of the emulated machine: a GPU of the oldest architecture that the project compiles for
// (sm_80), so that what runs here fits the others as well; with few multiprocessors, since kernels
// that stride over their data launch blocks for all of them.
#include "runtime/device.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>

#include "runtime/capture.h"
#include "runtime/counters.h"
#include "runtime/errors.h"
#include "runtime/memory.h"
#include "runtime/settings.h"

namespace cuda_emulator {
namespace {

constexpr int kMultiprocessors = 8;
constexpr int kMajor = 8, kMinor = 0;
constexpr int kClockKilohertz = 1000000;
constexpr int kVersion = 13000;

thread_local int current = 0;

int num_devices() { return static_cast<int>(settings().devices.size()); }

cudaError_t check_device(int device) {
  if (num_devices() == 0) return cudaErrorNoDevice;
  return device >= 0 && device < num_devices() ? cudaSuccess : cudaErrorInvalidDevice;
}

int number_in_machine(int device) { return settings().devices[static_cast<size_t>(device)]; }

// The same for the same GPU in every process, whatever CUDA_VISIBLE_DEVICES calls it.
cudaUUID_t uuid_of(int device) {
  cudaUUID_t uuid{};
  std::memcpy(uuid.bytes, "emulated GPU", 12);
  const int number = number_in_machine(device);
  std::memcpy(uuid.bytes + 12, &number, sizeof number);
  return uuid;
}

int attribute(cudaDeviceAttr name) {
  switch (name) {
    case cudaDevAttrMultiProcessorCount:
      return kMultiprocessors;
    case cudaDevAttrMaxThreadsPerBlock:
      return static_cast<int>(kMaxThreadsPerBlock);
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return static_cast<int>(kMaxStaticSharedBytes);
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return static_cast<int>(kMaxSharedBytes);
    case cudaDevAttrComputeCapabilityMajor:
      return kMajor;
    case cudaDevAttrComputeCapabilityMinor:
      return kMinor;
    case cudaDevAttrClockRate:
      return kClockKilohertz;
    case cudaDevAttrWarpSize:
      return 32;
    case cudaDevAttrMemoryPoolsSupported:
      return 1;
    default:
      fail("cudaDeviceGetAttribute: the emulated device says nothing of attribute %d", name);
  }
}

}  // namespace

int current_device() { return current; }

}  // namespace cuda_emulator

using namespace cuda_emulator;

cudaError_t cudaGetDeviceCount(int* count) {
  *count = num_devices();
  return noted(num_devices() > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return noted(check_device(current));
}

cudaError_t cudaSetDevice(int device) {
  const cudaError_t status = check_device(device);
  if (status == cudaSuccess) current = device;
  return noted(status);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int device) {
  const cudaError_t status = check_device(device);
  if (status == cudaSuccess) *value = attribute(name);
  return noted(status);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const cudaError_t status = check_device(device);
  if (status != cudaSuccess) return noted(status);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulated GPU %d",
                number_in_machine(device));
  properties->uuid = uuid_of(device);
  properties->major = kMajor;
  properties->minor = kMinor;
  properties->multiProcessorCount = kMultiprocessors;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = static_cast<int>(kMaxThreadsPerBlock);
  properties->sharedMemPerBlock = kMaxStaticSharedBytes;
  properties->sharedMemPerBlockOptin = kMaxSharedBytes;
  properties->totalGlobalMem = settings().memory_bytes;
  properties->pciBusID = number_in_machine(device);
  properties->unifiedAddressing = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  const cudaError_t status = check_device(device);
  if (status == cudaSuccess)
    std::snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", number_in_machine(device));
  return noted(status);
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  *can = device != peer ? 1 : 0;
  const cudaError_t status = check_device(device);
  return noted(status != cudaSuccess ? status : check_device(peer));
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  const Locked locked;
  *total_bytes = settings().memory_bytes;
  *free_bytes = *total_bytes - bytes_in_use(current);
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  const ApiCall call(__func__);
  if (const cudaError_t status = forbid_while_capturing(); status != cudaSuccess)
    return noted(status);
  count(CUDA_EMULATOR_HOST_WAIT, __func__);
  wait_for_device(current);
  return cudaSuccess;
}
