// Streams, events, host functions.
#include <cuda_runtime_api.h>

#include <memory>
#include <set>
#include <utility>

#include "runtime/capture.h"
#include "runtime/counters.h"
#include "runtime/device.h"
#include "runtime/errors.h"

namespace cuda_emulator {
namespace {

struct EventState {
  unsigned flags = 0;
  std::shared_ptr<Marker> marker;  // of the newest record; null: none, or it was captured
  // Recorded in a stream that was captured: what it stands for.
  std::shared_ptr<Capture> capture;
  std::vector<size_t> frontier;

  bool is_captured() const { return capture != nullptr; }
};

std::set<EventState*>& events() {
  static auto& live = *new std::set<EventState*>;
  return live;
}

EventState* find_event(cudaEvent_t handle) {
  auto* event = reinterpret_cast<EventState*>(handle);
  return events().count(event) != 0 ? event : nullptr;
}

cudaStream_t handle_of(Stream& stream) { return reinterpret_cast<cudaStream_t>(&stream); }

// What cudaEventSynchronize and cudaEventQuery have in common.
cudaError_t event_to_ask(cudaEvent_t handle, EventState** event) {
  *event = find_event(handle);
  if (*event == nullptr) return cudaErrorInvalidResourceHandle;
  if (!(*event)->is_captured()) return forbid_while_capturing();
  (*event)->capture->valid = false;
  return cudaErrorCapturedEvent;
}

cudaError_t stream_to_ask(cudaStream_t handle, Stream** stream) {
  *stream = find_stream(handle);
  if (*stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t status = forbid_on_captured(**stream); status != cudaSuccess) return status;
  return forbid_while_capturing();
}

}  // namespace
}  // namespace cuda_emulator

using namespace cuda_emulator;

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned, int) {
  const ApiCall call(__func__);
  *handle = handle_of(*create_stream(current_device()));
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
  return cudaStreamCreateWithPriority(handle, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* handle) {
  return cudaStreamCreateWithPriority(handle, cudaStreamDefault, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  const ApiCall call(__func__);
  Stream* stream = find_stream(handle);
  if (stream == nullptr) return noted(cudaErrorInvalidResourceHandle);
  if (stream->capture != nullptr) fail("cudaStreamDestroy of a stream that is being captured");
  destroy_stream(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  const ApiCall call(__func__);
  Stream* stream = nullptr;
  if (const cudaError_t status = stream_to_ask(handle, &stream); status != cudaSuccess)
    return noted(status);
  count(CUDA_EMULATOR_HOST_WAIT, __func__);
  wait_for(*mark(*stream));
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  const ApiCall call(__func__);
  Stream* stream = nullptr;
  if (const cudaError_t status = stream_to_ask(handle, &stream); status != cudaSuccess)
    return noted(status);
  return poll(*stream, __func__) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned) {
  const ApiCall call(__func__);
  Stream* stream = find_stream(handle);
  const EventState* event = find_event(event_handle);
  if (stream == nullptr || event == nullptr) return noted(cudaErrorInvalidResourceHandle);
  if (event->is_captured()) return noted(join_capture(*stream, event->capture, event->frontier));
  if (event->marker == nullptr)
    fail("cudaStreamWaitEvent: the event was never recorded, so that CUDA waits for nothing");
  if (stream->capture != nullptr) {
    stream->capture->valid = false;
    return noted(cudaErrorStreamCaptureIsolation);
  }
  issue(*stream, {.what = "cudaStreamWaitEvent"}, {event->marker});
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* argument) {
  return noted(enqueue(handle, {.what = "host function",
                                .work =
                                    [=] {
                                      function(argument);
                                      return true;
                                    },
                                .on_host = true,
                                .pinned = {.unknown = true}}));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned flags) {
  const ApiCall call(__func__);
  auto* event =
      new EventState{.flags = flags, .marker = nullptr, .capture = nullptr, .frontier = {}};
  events().insert(event);
  *handle = reinterpret_cast<cudaEvent_t>(event);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* handle) {
  return cudaEventCreateWithFlags(handle, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  const ApiCall call(__func__);
  EventState* event = find_event(handle);
  if (event == nullptr) return noted(cudaErrorInvalidResourceHandle);
  events().erase(event);
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  const ApiCall call(__func__);
  EventState* event = find_event(handle);
  Stream* stream = find_stream(stream_handle);
  if (stream == nullptr || event == nullptr) return noted(cudaErrorInvalidResourceHandle);
  event->capture = stream->capture;
  event->frontier = stream->frontier;
  event->marker = nullptr;
  if (!event->is_captured())
    event->marker = mark(*stream);
  else if (!event->capture->valid)
    return noted(cudaErrorStreamCaptureInvalidated);
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  const ApiCall call(__func__);
  EventState* event = nullptr;
  if (const cudaError_t status = event_to_ask(handle, &event); status != cudaSuccess)
    return noted(status);
  if (event->marker == nullptr) return cudaSuccess;
  count(CUDA_EMULATOR_HOST_WAIT, __func__);
  const std::shared_ptr<Marker> marker = event->marker;
  wait_for(*marker);
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  const ApiCall call(__func__);
  EventState* event = nullptr;
  if (const cudaError_t status = event_to_ask(handle, &event); status != cudaSuccess)
    return noted(status);
  if (event->marker == nullptr) return cudaSuccess;
  const std::shared_ptr<Marker> marker = event->marker;
  return poll(*marker, __func__) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const ApiCall call(__func__);
  const EventState* from = find_event(begin);
  const EventState* to = find_event(end);
  if (from == nullptr || to == nullptr || from->marker == nullptr || to->marker == nullptr ||
      ((from->flags | to->flags) & cudaEventDisableTiming) != 0)
    return noted(cudaErrorInvalidResourceHandle);
  if (!from->marker->reached || !to->marker->reached) return noted(cudaErrorNotReady);
  *milliseconds = static_cast<float>(to->marker->milliseconds - from->marker->milliseconds);
  return cudaSuccess;
}
