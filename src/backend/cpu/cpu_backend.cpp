#include "backend/cpu/cpu_backend.h"

#include <cblas.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "core/error.h"
#include "core/math.h"

namespace switchyard {
namespace {

// Events of pending work count as those of a queue of their own.
constexpr int kPendingQueue = 1;

}  // namespace

int cores_in_affinity_mask() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  SY_CHECK(sched_getaffinity(0, sizeof(mask), &mask) == 0, "sched_getaffinity failed");
  return CPU_COUNT(&mask);
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

// OPENBLAS_CORETYPE in the environment, or a processor newer than the library.
std::string CpuBackend::speed_advice() const {
  const std::string_view kernels = openblas_get_corename();
  const bool is_avx2 = kernels == "Haswell" || kernels == "Zen";
  if (!is_avx2 || !__builtin_cpu_supports("avx512dq")) return "";
  return fmt::format(
      "OpenBLAS runs its {} kernels on a processor with AVX-512, at half the speed: unset "
      "OPENBLAS_CORETYPE if it is set in the environment, or set it to SkylakeX",
      kernels);
}

void CpuBackend::host_wait(Event event) {
  if (is_complete(event)) return;
  marks().wait_begins(event.ticket);
  for (progress(); !is_complete(event); progress()) {
    mark_what_is_missing(event);
    std::this_thread::yield();  // the rank waited for may need this core
  }
  marks().wait_ends();
}

Event CpuBackend::start(std::unique_ptr<PendingWork> work, Event after) {
  const Event done{kPendingQueue, ++num_started_};
  if (is_complete(after) && work->advance()) return {};
  pending_.push_back({done, after, std::move(work)});
  return done;
}

void CpuBackend::progress() {
  for (auto pending = pending_.begin(); pending != pending_.end();) {
    if (!advance(*pending)) {
      ++pending;
      continue;
    }
    const int64_t ticket = pending->done.ticket;
    pending = pending_.erase(pending);
    marks().completed(ticket);
  }
}

bool CpuBackend::advance(Pending& pending) {
  if (!is_complete(pending.after)) return false;
  const bool is_done = pending.work->advance();
  if (const int64_t arrived = pending.work->num_arrived(); arrived != pending.num_arrived) {
    pending.num_arrived = arrived;
    marks().part_arrived();
  }
  return is_done;
}

// Of the work that must advance before `event` can complete; every step back from it is one round
// less that the call has come.
void CpuBackend::mark_what_is_missing(Event event) {
  constexpr int64_t kRound = int64_t{1} << 32;
  int64_t reached = 0;
  for (size_t i = pending_.size(); i-- > 0;) {  // work comes after what it waits for
    const Pending& pending = pending_[i];
    if (pending.done.ticket != event.ticket) continue;
    if (is_complete(pending.after)) {
      marks().wait_misses(pending.work->missing_peer(), reached + pending.num_arrived);
      return;
    }
    event = pending.after;
    reached -= kRound;
  }
}

bool CpuBackend::is_complete(Event event) {
  return event.queue != kPendingQueue ||
         std::none_of(pending_.begin(), pending_.end(),
                      [&](const Pending& pending) { return pending.done.ticket == event.ticket; });
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
