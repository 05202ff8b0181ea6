// cudaMalloc and its kin, copies and fills.
#include <cuda_runtime_api.h>

#include <cstring>
#include <utility>

#include "runtime/capture.h"
#include "runtime/counters.h"
#include "runtime/device.h"
#include "runtime/errors.h"
#include "runtime/memory.h"

namespace cuda_emulator {
namespace {

// The live allocation that begins at `p`; stops the test if there is none.
Allocation& allocation_to_free(const void* p, bool pinned, const char* caller) {
  Allocation* allocation = find_allocation(p);
  if (allocation == nullptr || allocation->first != p)
    fail("%s: %p is not the begin of an allocation", caller, p);
  if (allocation->state == Allocation::State::kFreed ||
      allocation->state == Allocation::State::kDoomed)
    fail("%s: allocation %d (%zu bytes) is freed twice", caller, allocation->number,
         allocation->bytes);
  if (allocation->pinned() != pinned)
    fail("%s: allocation %d is %s memory", caller, allocation->number,
         allocation->pinned() ? "pinned host" : "device");
  return *allocation;
}

cudaError_t allocate(void** p, Allocation* allocation, const char* caller) {
  if (allocation == nullptr) return noted(cudaErrorMemoryAllocation);
  count(CUDA_EMULATOR_ALLOCATION, caller, allocation->bytes);
  *p = allocation->first;
  return cudaSuccess;
}

// The device ends what it was asked to do before memory goes.
cudaError_t free_memory(void* p, bool pinned, const char* caller) {
  if (const cudaError_t status = forbid_while_capturing(); status != cudaSuccess)
    return noted(status);
  if (p == nullptr) return cudaSuccess;
  Allocation& allocation = allocation_to_free(p, pinned, caller);
  count(CUDA_EMULATOR_HOST_WAIT, caller);
  wait_for_device(pinned ? current_device() : allocation.device);
  release(allocation);
  return cudaSuccess;
}

struct Sides {
  bool from_device, to_device;
};

bool sides_of(cudaMemcpyKind kind, const void* to, const void* from, Sides& sides) {
  switch (kind) {
    case cudaMemcpyHostToDevice:
      sides = {false, true};
      return true;
    case cudaMemcpyDeviceToHost:
      sides = {true, false};
      return true;
    case cudaMemcpyDeviceToDevice:
      sides = {true, true};
      return true;
    case cudaMemcpyHostToHost:
      sides = {false, false};
      return true;
    case cudaMemcpyDefault:
      sides = {is_device(from, 1), is_device(to, 1)};
      return true;
  }
  return false;
}

const char* name_of(const Sides& sides) {
  if (sides.from_device)
    return sides.to_device ? "cudaMemcpyAsync device to device" : "cudaMemcpyAsync device to host";
  return sides.to_device ? "cudaMemcpyAsync host to device" : "cudaMemcpyAsync host to host";
}

void check_side(const void* p, size_t bytes, bool on_device, const char* what) {
  if (on_device) return need_device(p, bytes, what);
  if (is_pinned(p, bytes)) return;
  if (is_device(p, 1)) fail("%s: %p is device memory, the direction says host", what, p);
  if (const Allocation* allocation = find_allocation(p); allocation != nullptr)
    fail("%s: %p (%zu bytes) ends beyond allocation %d (%zu bytes, pinned), or this is freed", what,
         p, bytes, allocation->number, allocation->bytes);
  fail("%s: %p is pageable host memory: the copy would not be asynchronous", what, p);
}

PinnedUse pinned_side(const Sides& sides, void* to, const void* from, size_t bytes) {
  if (!sides.from_device && !sides.to_device) return {.unknown = true};
  if (!sides.to_device) return {.first = static_cast<char*>(to), .bytes = bytes, .written = true};
  if (sides.from_device) return {};
  return {.first = static_cast<char*>(const_cast<void*>(from)), .bytes = bytes};
}

}  // namespace
}  // namespace cuda_emulator

using namespace cuda_emulator;

cudaError_t cudaMalloc(void** p, size_t bytes) {
  const ApiCall call(__func__);
  if (const cudaError_t status = forbid_while_capturing(); status != cudaSuccess)
    return noted(status);
  *p = nullptr;
  if (bytes == 0) return cudaSuccess;
  return allocate(p, allocate_device(current_device(), bytes, Allocation::State::kLive), __func__);
}

cudaError_t cudaFree(void* p) {
  const ApiCall call(__func__);
  return free_memory(p, false, __func__);
}

cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  const ApiCall call(__func__);
  if (const cudaError_t status = forbid_while_capturing(); status != cudaSuccess)
    return noted(status);
  *p = nullptr;
  return bytes == 0 ? cudaSuccess : allocate(p, allocate_pinned(bytes), __func__);
}

cudaError_t cudaMallocHost(void** p, size_t bytes) { return cudaHostAlloc(p, bytes, 0); }

cudaError_t cudaFreeHost(void* p) {
  const ApiCall call(__func__);
  return free_memory(p, true, __func__);
}

// Memory that belongs to a graph is not emulated: a step allocates before it is captured.
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t handle) {
  const ApiCall call(__func__);
  Stream* stream = find_stream(handle);
  if (stream == nullptr) return noted(cudaErrorInvalidResourceHandle);
  if (const cudaError_t status = forbid_on_captured(*stream); status != cudaSuccess)
    return noted(status);
  *p = nullptr;
  if (bytes == 0) return cudaSuccess;
  Allocation* allocation = allocate_device(stream->device, bytes, Allocation::State::kUnborn);
  const cudaError_t status = allocate(p, allocation, __func__);
  if (status != cudaSuccess) return status;
  issue(*stream, {.what = "cudaMallocAsync", .work = [allocation] {
                    if (allocation->state == Allocation::State::kUnborn)
                      allocation->state = Allocation::State::kLive;
                    return true;
                  }});
  return cudaSuccess;
}

cudaError_t cudaFreeAsync(void* p, cudaStream_t handle) {
  const ApiCall call(__func__);
  Stream* stream = find_stream(handle);
  if (stream == nullptr) return noted(cudaErrorInvalidResourceHandle);
  if (const cudaError_t status = forbid_on_captured(*stream); status != cudaSuccess)
    return noted(status);
  if (p == nullptr) return cudaSuccess;
  Allocation& allocation = allocation_to_free(p, false, __func__);
  allocation.state = Allocation::State::kDoomed;
  issue(*stream, {.what = "cudaFreeAsync", .work = [&allocation] {
                    release(allocation);
                    return true;
                  }});
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t handle) {
  Sides sides{};
  if (!sides_of(kind, to, from, sides)) return noted(cudaErrorInvalidMemcpyDirection);
  if (bytes == 0) return cudaSuccess;
  {
    const Locked locked;
    check_side(to, bytes, sides.to_device, "cudaMemcpyAsync, target");
    check_side(from, bytes, sides.from_device, "cudaMemcpyAsync, source");
  }
  return noted(enqueue(handle, {.what = name_of(sides),
                                .work =
                                    [=] {
                                      copy_noted(to, from, bytes);
                                      return true;
                                    },
                                .cost = {Cost::Kind::kCopy, bytes},
                                .pinned = pinned_side(sides, to, from, bytes)}));
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t handle) {
  if (bytes == 0) return cudaSuccess;
  {
    const Locked locked;
    need_device(to, bytes, "cudaMemsetAsync, target");
  }
  return noted(enqueue(handle, {.what = "cudaMemsetAsync",
                                .work =
                                    [=] {
                                      note_write(to, bytes);
                                      std::memset(to, value, bytes);
                                      return true;
                                    },
                                .cost = {Cost::Kind::kCopy, bytes}}));
}

cudaError_t cudaMemcpy(void*, const void*, size_t, cudaMemcpyKind) {
  fail("cudaMemcpy works on the default stream, which the project does not use");
}

cudaError_t cudaMemset(void*, int, size_t) {
  fail("cudaMemset works on the default stream, which the project does not use");
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  const Locked locked;
  const Allocation* allocation = find_allocation(p);
  *attributes = {};
  attributes->type = cudaMemoryTypeUnregistered;
  if (allocation == nullptr || allocation->state == Allocation::State::kFreed) return cudaSuccess;
  attributes->type = allocation->pinned() ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  attributes->device = allocation->pinned() ? current_device() : allocation->device;
  attributes->devicePointer = const_cast<void*>(p);
  attributes->hostPointer = allocation->pinned() ? const_cast<void*>(p) : nullptr;
  return cudaSuccess;
}
