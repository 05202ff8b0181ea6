#include "runtime/scheduler.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

#include "cuda_emulator/progress.h"
#include "engine/engine.h"
#include "runtime/counters.h"
#include "runtime/memory.h"
#include "runtime/settings.h"

namespace cuda_emulator {
namespace {

using Streams = std::vector<std::shared_ptr<Stream>>;

struct Device {
  Streams streams;
  int streams_created = 0;
  int running_stream = 0;
  uint64_t turns_issued = 0, turns_done = 0;
  std::mt19937_64 random{settings().seed};
};

Device& device() {
  static auto& device = *new Device;
  return device;
}

thread_local bool in_host_function = false;

double now_in_milliseconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
}

cuda_emulator_kind kind_of(Cost::Kind kind) {
  switch (kind) {
    case Cost::Kind::kKernel:
      return CUDA_EMULATOR_KERNEL;
    case Cost::Kind::kCopy:
      return CUDA_EMULATOR_COPY;
    case Cost::Kind::kBlas:
      return CUDA_EMULATOR_BLAS;
    case Cost::Kind::kCollective:
    case Cost::Kind::kNone:
      break;
  }
  return CUDA_EMULATOR_COLLECTIVE;
}

bool work_on_host(const Operation& operation) {
  const Unlocked unlocked;
  in_host_function = true;
  const bool done = operation.work();
  in_host_function = false;
  return done;
}

bool work_on_device(const Stream& stream, const Operation& operation) {
  device().running_stream = stream.number;
  open_device_memory(stream.device, operation.what);
  const bool done = operation.work();
  close_device_memory();
  return done;
}

struct Execution {
  Stream& stream;
  bool done = false;
};

// In the context of the stream.
void execute(void* argument) {
  auto& execution = *static_cast<Execution*>(argument);
  Stream::Entry& entry = *execution.stream.queue.front();
  const Operation& operation = entry.operation;
  happens_after(&entry);
  for (const auto& marker : entry.after) happens_after(marker.get());
  if (!operation.work)
    execution.done = true;
  else
    execution.done =
        operation.on_host ? work_on_host(operation) : work_on_device(execution.stream, operation);
  if (execution.done && entry.marker != nullptr) happens_before(entry.marker.get());
}

// Runs the first operation of a queue, which may start; whether it is done.
bool run_first(Stream& stream) {
  const std::shared_ptr<Stream> kept = stream.shared_from_this();
  Execution execution{stream};
  stream.running = true;
  run_in_context(stream.context, execute, &execution);
  stream.running = false;
  if (!execution.done) return false;

  const std::unique_ptr<Stream::Entry> entry = std::move(stream.queue.front());
  stream.queue.pop_front();
  if (entry->turn != 0) device().turns_done = entry->turn;
  if (entry->marker != nullptr) {
    entry->marker->reached = true;
    entry->marker->milliseconds = now_in_milliseconds();
  }
  if (stream.destroyed && stream.queue.empty()) std::erase(device().streams, kept);
  return true;
}

bool may_start(const Stream& stream) {
  if (stream.queue.empty() || stream.running) return false;
  const Stream::Entry& first = *stream.queue.front();
  if (first.turn != 0 && first.turn != device().turns_done + 1) return false;
  return std::all_of(first.after.begin(), first.after.end(),
                     [](const auto& marker) { return marker->reached; });
}

Stream* stream_with_turn(uint64_t turn) {
  for (const auto& stream : device().streams)
    for (const auto& entry : stream->queue)
      if (entry->turn == turn) return stream.get();
  fail("internal: operation %lu of those in issue order is in no queue", turn);
}

// Runs one operation without which the first one of `stream` cannot run, or that one; whether an
// operation was completed.
bool advance(Stream& stream) {
  if (stream.queue.empty() || stream.running) return false;
  const Stream::Entry& first = *stream.queue.front();
  for (const auto& marker : first.after)
    if (!marker->reached) return advance(*marker->stream.lock());
  if (first.turn != 0 && first.turn != device().turns_done + 1)
    return advance(*stream_with_turn(device().turns_done + 1));
  return run_first(stream);
}

// Everything that can run, until nothing more can.
bool run_all() {
  bool ran = false;
  for (bool again = true; again;) {
    again = false;
    for (const auto& stream : Streams(device().streams))
      while (may_start(*stream) && run_first(*stream)) again = true;
    ran |= again;
  }
  return ran;
}

bool run_one_at_random() {
  Streams able;
  for (const auto& stream : device().streams)
    if (may_start(*stream)) able.push_back(stream);
  return !able.empty() && run_first(*able[device().random() % able.size()]);
}

// One step of a wait for what is in the queue of `stream`.
bool step(Stream& stream) {
  switch (settings().mode) {
    case Mode::kRandom:
      return run_one_at_random();
    case Mode::kLazy:
      if (advance(stream)) return true;
      break;  // it waits for another rank: a GPU would do everything else meanwhile
    case Mode::kEager:
      break;
  }
  return run_all();
}

bool has_work() {
  return std::any_of(device().streams.begin(), device().streams.end(),
                     [](const auto& stream) { return !stream->queue.empty(); });
}

bool overlap(const PinnedUse& a, const PinnedUse& b) {
  return a.unknown || b.unknown || (a.first < b.first + b.bytes && b.first < a.first + a.bytes);
}

// What a copy will overwrite is worthless from now on: a host that reads it too early gets NaN and
// -1, not what was there before, which may look right. Not where what is still queued needs it.
void poison(const PinnedUse& target) {
  for (const auto& stream : device().streams)
    for (const auto& entry : stream->queue)
      if (overlap(entry->operation.pinned, target)) return;
  std::memset(target.first, 0xFF, target.bytes);
}

}  // namespace

std::shared_ptr<Stream> create_stream(int of_device) {
  auto stream = std::make_shared<Stream>();
  stream->number = device().streams_created++;
  stream->device = of_device;
  stream->context = create_context();
  device().streams.push_back(stream);
  return stream;
}

int running_stream() { return device().running_stream; }

void destroy_stream(Stream& stream) {
  stream.destroyed = true;
  if (stream.queue.empty()) std::erase(device().streams, stream.shared_from_this());
}

Stream* find_stream(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread)
    fail("the default stream is used: every stream of the project is its own");
  for (const auto& stream : device().streams)
    if (reinterpret_cast<cudaStream_t>(stream.get()) == handle && !stream->destroyed)
      return stream.get();
  return nullptr;
}

void issue(Stream& stream, Operation operation, std::vector<std::shared_ptr<Marker>> after,
           std::shared_ptr<Marker> marker) {
  auto entry = std::make_unique<Stream::Entry>();
  if (operation.cost.kind != Cost::Kind::kNone)
    count(kind_of(operation.cost.kind), operation.what, operation.cost.amount);
  if (operation.pinned.written) poison(operation.pinned);
  if (operation.in_issue_order) entry->turn = ++device().turns_issued;
  if (marker != nullptr) marker->stream = stream.weak_from_this();
  entry->operation = std::move(operation);
  entry->after = std::move(after);
  entry->marker = std::move(marker);
  {
    const Seen seen;
    happens_before(entry.get());
  }
  stream.queue.push_back(std::move(entry));
  ++stream.issued;
  if (settings().mode == Mode::kEager) run_all();
}

std::shared_ptr<Marker> mark(Stream& stream) {
  auto marker = std::make_shared<Marker>();
  issue(stream, {}, {}, marker);
  return marker;
}

void wait_for(Marker& marker) {
  for (int attempt = 0; !marker.reached;) {
    if (step(*marker.stream.lock())) {
      attempt = 0;
    } else {
      const Unlocked unlocked;
      pause(attempt++);
    }
  }
  const Seen seen;
  happens_after(&marker);
}

bool poll(Marker& marker, const char* asker) {
  if (marker.reached) {
    const Seen seen;
    happens_after(&marker);
    return true;
  }
  if (!std::exchange(marker.polled, true)) count(CUDA_EMULATOR_HOST_WAIT, asker);
  step(*marker.stream.lock());
  return false;
}

bool poll(Stream& stream, const char* asker) {
  if (stream.queue.empty()) {
    wait_for(*mark(stream));
    return true;
  }
  if (std::exchange(stream.polled, stream.issued) != stream.issued)
    count(CUDA_EMULATOR_HOST_WAIT, asker);
  step(stream);
  return false;
}

void wait_for_device(int of_device) {
  std::vector<std::shared_ptr<Marker>> ends;
  for (const auto& stream : Streams(device().streams))
    if (stream->device == of_device) ends.push_back(mark(*stream));
  for (const auto& end : ends) wait_for(*end);
}

bool make_progress() {
  const Locked locked;
  return has_work() && run_all();
}

ApiCall::ApiCall(const char* name) {
  if (in_host_function)
    fail("%s is called by a host function of a stream, which CUDA forbids", name);
  if (!has_work()) return;
  switch (settings().mode) {
    case Mode::kEager:
      run_all();  // what had to wait for another rank
      break;
    case Mode::kRandom:
      while (device().random() % 3 == 0 && run_one_at_random()) continue;
      break;
    case Mode::kLazy:
      break;
  }
}

}  // namespace cuda_emulator

int cuda_emulator_progress() { return cuda_emulator::make_progress() ? 1 : 0; }
