#include "backend/cpu/cpu_backend.h"

#include <cblas.h>
#include <sched.h>

#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/math.h"

namespace switchyard {
namespace {

// Events of started work count as those of a queue of their own.
constexpr int kStartedWork = 1;

}  // namespace

int cores_in_affinity_mask() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  SY_CHECK(sched_getaffinity(0, sizeof(mask), &mask) == 0, "sched_getaffinity failed");
  return CPU_COUNT(&mask);
}

// OPENBLAS_CORETYPE in the environment, or a processor newer than the library.
std::string advice_on_blas() {
  const std::string_view kernels = openblas_get_corename();
  const bool is_avx2 = kernels == "Haswell" || kernels == "Zen";
  if (!is_avx2 || !__builtin_cpu_supports("avx512dq")) return "";
  return fmt::format(
      "OpenBLAS runs its {} kernels on a processor with AVX-512, at half the speed: unset "
      "OPENBLAS_CORETYPE if it is set in the environment, or set it to SkylakeX",
      kernels);
}

CpuBackend::CpuBackend(int num_threads)
    : num_threads_(num_threads > 0 ? num_threads : cores_in_affinity_mask()), ops_(num_threads_) {
  // Our threads call BLAS side by side. The serial build of OpenBLAS has no lock around its packing
  // buffers and returns wrong products then (src/README.md, "Which BLAS").
  SY_CHECK(
      openblas_get_parallel() != 0,
      "the loaded OpenBLAS ({}) is not thread-safe; install libopenblas-pthread-dev and rebuild",
      openblas_get_config());
  openblas_set_num_threads(1);
}

std::string CpuBackend::description() const {
  return fmt::format("cpu, {} thread{}, {}", num_threads_, num_threads_ == 1 ? "" : "s",
                     openblas_get_corename());
}

void CpuBackend::host_wait(Event event) {
  if (is_complete(event)) return;
  marks().wait_begins(event.ticket);
  for (progress(); !is_complete(event); progress()) {
    started_.mark_what_is_missing(event);
    std::this_thread::yield();  // the rank waited for may need this core
  }
  marks().wait_ends();
}

Event CpuBackend::start(std::unique_ptr<PendingWork> work, Event after) {
  return started_.start({kStartedWork, ++num_started_}, std::move(work), after);
}

bool CpuBackend::is_complete(Event event) {
  return event.queue != kStartedWork || started_.is_complete(event);
}

void CpuBackend::upload(Queue, Tensor device, const void* host) {
  if (device.bytes() > 0) std::memcpy(device.raw(), host, static_cast<size_t>(device.bytes()));
}

void CpuBackend::download(Queue, void* host, Tensor device) {
  if (device.bytes() > 0) std::memcpy(host, device.raw(), static_cast<size_t>(device.bytes()));
}

std::byte* CpuBackend::do_allocate(int64_t bytes) {
  void* memory = std::aligned_alloc(64, static_cast<size_t>(round_up(bytes, 64)));
  SY_CHECK(memory != nullptr, "out of memory: {} bytes", bytes);
  return static_cast<std::byte*>(memory);
}

void CpuBackend::do_free(std::byte* memory, int64_t) { std::free(memory); }

}  // namespace switchyard
