#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>

#include "backend/cuda/cuda_check.h"
#include "backend/cuda/peak_flops.h"
#include "core/error.h"

namespace switchyard {
namespace {

// Events of started work count as those of a queue of their own, which is no stream.
constexpr int kStartedWork = 1 << 30;

double gigabytes(int64_t bytes) { return static_cast<double>(bytes) / 1e9; }

}  // namespace

CudaBackend::CudaBackend(Options options)
    : options_(std::move(options)),
      device_(options_.ordinal),
      ops_(device_),
      copy_queue_(device_.add_queue()),
      uploads_(options_.staging_bytes),
      downloads_(options_.staging_bytes) {
  marks().follow([this](const ProgressHead& head, EventKind mark) { ranges_.at(head, mark); });
}

// Pinned memory must outlive the copies from and to it.
CudaBackend::~CudaBackend() {
  marks().follow({});
  if (std::uncaught_exceptions() == 0) cudaDeviceSynchronize();
}

std::string CudaBackend::description() const {
  return fmt::format("cuda:{} {}, sm_{}", device_.ordinal(), device_.name(),
                     device_.compute_capability());
}

double CudaBackend::peak_flops(DType real) {
  return theoretical_peak_flops({.compute_capability = device_.compute_capability(),
                                 .num_multiprocessors = device_.num_multiprocessors(),
                                 .clock_hz = device_.clock_hz()},
                                real);
}

Event CudaBackend::record(Queue queue) {
  return events_.record(queue, device_.stream(queue), next_ticket());
}

void CudaBackend::wait(Queue queue, Event event) {
  if (event.queue == kStartedWork) return host_wait(event);
  if (event.queue == queue.id) return;  // a queue works in order
  if (const cudaEvent_t recorded = events_.find(event); recorded != nullptr)
    CUDA_CHECK(cudaStreamWaitEvent(device_.stream(queue), recorded, 0));
}

bool CudaBackend::is_complete(Event event) {
  return event.queue == kStartedWork ? started_.is_complete(event) : events_.is_complete(event);
}

void CudaBackend::host_wait(Event event) {
  ++host_waits_;
  try {
    if (!is_complete(event)) poll_until_complete(event);
    settle();
  } catch (...) {
    downloads_.abandon();
    throw;
  }
}

void CudaBackend::poll_until_complete(Event event) {
  const bool is_started_work = event.queue == kStartedWork;
  bool is_marked = is_started_work && marks().wait_begins(event.ticket);
  int64_t num_seen = -1;  // events that had happened when the call waited for was last looked up
  for (progress(); !is_complete(event); progress()) {
    if (is_started_work) {
      started_.mark_what_is_missing(event);
    } else if (num_seen != events_.num_collected()) {
      num_seen = events_.num_collected();
      is_marked = mark_oldest_call(event);
    } else if (is_marked) {
      marks().wait_misses(-1, 0);
    }
    std::this_thread::yield();  // the rank waited for may need this core
  }
  marks().wait_ends();
}

// Of the calls in flight, the oldest that `event` may wait for: work is given to queues in an order
// in which it can be done, so nothing waits for what came later.
bool CudaBackend::mark_oldest_call(Event event) {
  marks().wait_ends();
  return std::ranges::any_of(events_.open_tickets(event.ticket),
                             [&](int64_t ticket) { return marks().wait_begins(ticket); });
}

Event CudaBackend::start(std::unique_ptr<PendingWork> work, Event after) {
  return started_.start({kStartedWork, next_ticket()}, std::move(work), after);
}

void CudaBackend::progress() {
  started_.advance();
  events_.collect([&](int64_t ticket) { marks().completed(ticket); });
}

void CudaBackend::settle() {
  const auto is_over = [&](Event event) { return is_complete(event); };
  uploads_.settle(is_over);
  downloads_.settle(is_over);
}

std::byte* CudaBackend::take(Staging& staging, int64_t bytes) {
  settle();
  while (true) {
    if (const auto taken = staging.take(bytes)) return *taken;
    host_wait(staging.oldest());
  }
}

void CudaBackend::upload(Queue queue, Tensor device, const void* host) {
  auto* const to = static_cast<std::byte*>(device.raw());
  const auto* const from = static_cast<const std::byte*>(host);
  for (int64_t begin = 0; begin < device.bytes(); begin += uploads_.largest_piece()) {
    const int64_t bytes = std::min(uploads_.largest_piece(), device.bytes() - begin);
    std::byte* const staged = take(uploads_, bytes);
    std::memcpy(staged, from + begin, static_cast<size_t>(bytes));
    CUDA_CHECK(cudaMemcpyAsync(to + begin, staged, static_cast<size_t>(bytes),
                               cudaMemcpyHostToDevice, device_.stream(queue)));
    uploads_.copies(record(queue), nullptr);
  }
}

void CudaBackend::download(Queue queue, void* host, Tensor device) {
  const auto* const from = static_cast<const std::byte*>(device.raw());
  auto* const to = static_cast<std::byte*>(host);
  for (int64_t begin = 0; begin < device.bytes(); begin += downloads_.largest_piece()) {
    const int64_t bytes = std::min(downloads_.largest_piece(), device.bytes() - begin);
    std::byte* const staged = take(downloads_, bytes);
    CUDA_CHECK(cudaMemcpyAsync(staged, from + begin, static_cast<size_t>(bytes),
                               cudaMemcpyDeviceToHost, device_.stream(queue)));
    downloads_.copies(record(queue), to + begin);
  }
}

HostMemory CudaBackend::allocate_host(int64_t bytes) {
  std::byte* memory = nullptr;
  CUDA_CHECK(cudaHostAlloc(reinterpret_cast<void**>(&memory),
                           static_cast<size_t>(std::max<int64_t>(bytes, 1)), cudaHostAllocDefault));
  return HostMemory(memory, [](std::byte* pinned) { cudaFreeHost(pinned); });
}

void CudaBackend::download_direct(Queue queue, std::byte* host, Tensor device) {
  if (device.bytes() > 0)
    CUDA_CHECK(cudaMemcpyAsync(host, device.raw(), static_cast<size_t>(device.bytes()),
                               cudaMemcpyDeviceToHost, device_.stream(queue)));
}

std::byte* CudaBackend::do_allocate(int64_t bytes) {
  std::byte* allocated = nullptr;
  const cudaError_t status =
      cudaMalloc(reinterpret_cast<void**>(&allocated), static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) fail_for_lack_of_memory(bytes);
  CUDA_CHECK(status);
  return allocated;
}

void CudaBackend::fail_for_lack_of_memory(int64_t bytes) const {
  cudaGetLastError();  // it is dealt with here
  size_t free = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  const std::string advice = options_.advice ? "\n" + options_.advice() : "";
  SY_REQUIRE(
      kConfig, false,
      "{}: {:.3f} GB do not fit into its memory: {:.3f} of {:.3f} GB are free; {:.3f} GB are "
      "this rank's tensors{}",
      description(), gigabytes(bytes), gigabytes(static_cast<int64_t>(free)),
      gigabytes(static_cast<int64_t>(total)), gigabytes(memory().bytes_in_use), advice);
}

void CudaBackend::do_free(std::byte* memory, int64_t) {
  if (std::uncaught_exceptions() == 0) cudaFree(memory);
}

}  // namespace switchyard
