// Launches of kernels.
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "engine/engine.h"
#include "runtime/device.h"
#include "runtime/errors.h"
#include "runtime/memory.h"
#include "runtime/scheduler.h"

namespace cuda_emulator {
namespace {

constexpr unsigned kMaxGridX = 0x7FFFFFFF, kMaxGridYZ = 65535, kMaxBlockZ = 64;

// Bytes of dynamic shared memory that a kernel was allowed to have.
std::map<const void*, size_t>& allowed_shared_bytes() {
  static auto& allowed = *new std::map<const void*, size_t>;
  return allowed;
}

size_t allowed_shared(const void* function) {
  const auto found = allowed_shared_bytes().find(function);
  return found == allowed_shared_bytes().end() ? kMaxStaticSharedBytes : found->second;
}

bool is_valid(dim3 grid, dim3 block) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return false;
  if (block.x == 0 || block.y == 0 || block.z == 0) return false;
  if (grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ) return false;
  if (block.x > kMaxThreadsPerBlock || block.y > kMaxThreadsPerBlock || block.z > kMaxBlockZ)
    return false;
  return size_t{block.x} * block.y * block.z <= kMaxThreadsPerBlock;
}

// Copies of the arguments of a launch, made at the launch as CUDA makes them, without what lies
// between the members of structures.
class Arguments {
 public:
  Arguments(const Kernel& kernel, void** values) {
    size_t words = 0;
    const auto words_of = [&](int i) {
      return (kernel.parameter_bytes[i] + sizeof(Word) - 1) / sizeof(Word);
    };
    for (int i = 0; i < kernel.num_parameters; ++i) words += words_of(i);
    words_.resize(words);
    words = 0;
    for (int i = 0; i < kernel.num_parameters; ++i) {
      std::memcpy(&words_[words], values[i], kernel.parameter_bytes[i]);
      addresses_.push_back(&words_[words]);
      words += words_of(i);
    }
    addresses_.push_back(nullptr);
    if (kernel.clear_padding != nullptr) kernel.clear_padding(addresses());
  }
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  void* const* addresses() const { return addresses_.data(); }

 private:
  using Word = std::max_align_t;
  std::vector<Word> words_;
  std::vector<void*> addresses_;
};

bool is_mapped(const void* p) {
  constexpr uintptr_t kPage = 4096;
  unsigned char present = 0;
  const auto page = reinterpret_cast<uintptr_t>(p) / kPage * kPage;
  return mincore(reinterpret_cast<void*>(page), 1, &present) == 0;
}

// Whether `p` leads to pinned memory. Stops the test where a kernel must not have it.
bool check_pointer(const void* p, const char* kernel, int parameter) {
  const Allocation* allocation = find_allocation(p);
  if (allocation == nullptr)
    fail("%s: argument %d is %p, neither device memory nor pinned", kernel, parameter, p);
  if (allocation->state == Allocation::State::kFreed ||
      allocation->state == Allocation::State::kDoomed)
    fail("%s: argument %d is %p: use after free, of allocation %d (%zu bytes)", kernel, parameter,
         p, allocation->number, allocation->bytes);
  return allocation->pinned();
}

// Structures may hold pointers: whatever looks like an address of host memory. (Members that a
// kernel does not look at have to be zero.)
bool check_words(const char* bytes, size_t count, const char* kernel, int parameter) {
  constexpr uintptr_t kLowest = 0x500000000000, kHighest = 0x7FFFFFFFFFFF;
  bool pinned = false;
  for (size_t i = 0; i + sizeof(uintptr_t) <= count; i += sizeof(uintptr_t)) {
    uintptr_t word = 0;
    std::memcpy(&word, bytes + i, sizeof word);
    const auto* p = reinterpret_cast<const void*>(word);
    if (word < kLowest || word > kHighest) continue;
    if (find_allocation(p) != nullptr)
      pinned |= check_pointer(p, kernel, parameter);
    else if (!is_reserved(p) && is_mapped(p))
      fail("%s: argument %d holds at byte %zu the address %p of pageable host memory", kernel,
           parameter, i, p);
  }
  return pinned;
}

// Whether the kernel is given pinned memory.
bool check_arguments(const Kernel& kernel, const char* name, void* const* values) {
  bool pinned = false;
  for (int i = 0; i < kernel.num_parameters; ++i) {
    if (!kernel.parameter_is_pointer[i]) {
      if (kernel.clear_padding == nullptr) continue;
      pinned |=
          check_words(static_cast<const char*>(values[i]), kernel.parameter_bytes[i], name, i);
      continue;
    }
    void* p = nullptr;
    std::memcpy(&p, values[i], sizeof p);
    if (p != nullptr) pinned |= check_pointer(p, name, i);
  }
  return pinned;
}

cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* function) {
  if (!is_valid(config.gridDim, config.blockDim)) return cudaErrorInvalidConfiguration;
  if (config.dynamicSmemBytes > allowed_shared(function)) return cudaErrorInvalidValue;
  if (config.numAttrs != 0)
    fail("%s: attributes of launches are not emulated", kernel_name(function));
  const Stream* stream = find_stream(config.stream);
  if (stream == nullptr || stream->device != current_device())
    return cudaErrorInvalidResourceHandle;
  return cudaSuccess;
}

}  // namespace
}  // namespace cuda_emulator

using namespace cuda_emulator;

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const Locked locked;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
    fail("cudaFuncSetAttribute: attribute %d is not emulated", attribute);
  if (value < 0 || static_cast<size_t>(value) > kMaxSharedBytes)
    return noted(cudaErrorInvalidValue);
  allowed_shared_bytes()[function] = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** values) {
  const Locked locked;
  const Kernel* kernel = find_kernel(function);
  if (kernel == nullptr) return noted(cudaErrorInvalidDeviceFunction);
  if (const cudaError_t status = check_launch(*config, function); status != cudaSuccess)
    return noted(status);
  const char* name = kernel_name(function);
  const auto arguments = std::make_shared<const Arguments>(*kernel, values);
  const bool pinned = check_arguments(*kernel, name, arguments->addresses());
  const cudaLaunchConfig_t shape = *config;
  const bool opted_in = allowed_shared_bytes().contains(function);
  const auto work = [=] {
    run_grid({.kernel = kernel,
              .arguments = arguments->addresses(),
              .grid = shape.gridDim,
              .block = shape.blockDim,
              .shared_bytes = shape.dynamicSmemBytes,
              .opted_in = opted_in,
              .stream = running_stream()});
    return true;
  };
  const uint64_t blocks = uint64_t{shape.gridDim.x} * shape.gridDim.y * shape.gridDim.z;
  return noted(enqueue(config->stream, {.what = name,
                                        .work = work,
                                        .cost = {Cost::Kind::kKernel, blocks},
                                        .pinned = {.unknown = pinned}}));
}
