#include "deferred/deferred_backend.h"

#include <cstring>
#include <thread>
#include <utility>

namespace switchyard::test {
namespace {

// NaN in f64, f32 and bf16, and no index of anything.
constexpr uint16_t kPoison = 0x7FFF;

void poison(void* memory, int64_t bytes) {
  auto* at = static_cast<std::byte*>(memory);
  for (int64_t i = 0; i < bytes; ++i)
    at[i] = static_cast<std::byte>((i % 2 == 0 ? kPoison : kPoison >> 8) & 0xFF);
}

}  // namespace

DeferredBackend::DeferredBackend(RunOrder order, int num_threads)
    : inner_(num_threads),
      timeline_(order),
      compute_{timeline_.add_queue("compute")},
      copies_{timeline_.add_queue("copies")},
      started_{timeline_.add_queue("started work")},
      ops_(inner_.ops(), [this](Queue queue, Work work) { defer(queue, std::move(work)); }) {}

void DeferredBackend::wait(Queue queue, Event event) {
  if (event.queue >= 0 && timeline_.name_of(event.queue) == forgotten_) return;
  timeline_.push_wait(queue.id, event);
}

// Its work is of one queue: it runs in the order of start(), each to its end.
Event DeferredBackend::start(std::unique_ptr<PendingWork> work, Event after) {
  const auto run = [started = work.get()] {
    while (!started->advance()) std::this_thread::yield();
  };
  started_work_.push_back(std::move(work));
  return timeline_.push(started_.id, {.name = "pending work", .accesses = {}, .run = run}, after);
}

void DeferredBackend::upload(Queue queue, Tensor device, const void* host) {
  const auto* begin = static_cast<const std::byte*>(host);
  const std::vector<std::byte> copy(begin, begin + device.bytes());
  defer(queue, {.name = "upload", .accesses = accesses_of({device}, {}), .run = [=, this] {
                  inner_.upload(queue, device, copy.data());
                }});
}

void DeferredBackend::download(Queue queue, void* host, Tensor device) {
  poison(host, device.bytes());
  defer(queue, {.name = "download", .accesses = accesses_of({}, {device}), .run = [=, this] {
                  inner_.download(queue, host, device);
                }});
}

void DeferredBackend::released(Queue queue, std::byte* memory, int64_t bytes) {
  defer(queue, {.name = "the end of an arena scope",
                .accesses = {{memory, bytes, true}},
                .run = [=] { poison(memory, bytes); }});
}

void DeferredBackend::finish() {
  for (int queue = 0; queue < timeline_.num_queues(); ++queue) host_wait(timeline_.last(queue));
}

Event DeferredBackend::defer_collective(int queue, Work work, Event after,
                                        IssuedCollective issued) {
  check_on_device(work);
  issued_.push_back(std::move(issued));
  return timeline_.push_collective(queue, std::move(work), after);
}

std::byte* DeferredBackend::do_allocate(int64_t bytes) {
  Buffer buffer(inner_, bytes);
  std::byte* memory = buffer.data();
  poison(memory, bytes);
  memory_.emplace(memory, std::move(buffer));
  return memory;
}

void DeferredBackend::do_free(std::byte* memory, int64_t bytes) {
  timeline_.forget(memory, bytes);
  memory_.erase(memory);
}

void DeferredBackend::defer(Queue queue, Work work) {
  check_on_device(work);
  timeline_.push(queue.id, std::move(work));
}

void DeferredBackend::check_on_device(const Work& work) {
  for (const Access& access : work.accesses) {
    const auto next = memory_.upper_bound(access.begin);
    if (next != memory_.begin()) {
      const Buffer& buffer = std::prev(next)->second;
      if (access.begin + access.bytes <= buffer.data() + buffer.bytes()) continue;
    }
    timeline_.report(fmt::format("{} uses memory that is not the device's", work.name));
  }
}

}  // namespace switchyard::test
