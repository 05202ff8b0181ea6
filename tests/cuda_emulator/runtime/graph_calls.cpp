// Capture of streams, graphs.
#include <cuda_runtime_api.h>

#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "runtime/capture.h"
#include "runtime/device.h"
#include "runtime/errors.h"

namespace cuda_emulator {
namespace {

using Graph = std::shared_ptr<const std::vector<Node>>;
using Executable = std::shared_ptr<ExecutableGraph>;

// What a handle points to.
template <typename T>
class Handles {
 public:
  void* add(T object) {
    auto* pointer = new T(std::move(object));
    live_.insert(pointer);
    return pointer;
  }
  T* find(void* handle) {
    auto* pointer = static_cast<T*>(handle);
    return live_.count(pointer) != 0 ? pointer : nullptr;
  }
  bool remove(void* handle) {
    auto* pointer = static_cast<T*>(handle);
    if (live_.erase(pointer) == 0) return false;
    delete pointer;
    return true;
  }

 private:
  std::set<T*> live_;
};

Handles<Graph>& graphs() {
  static auto& handles = *new Handles<Graph>;
  return handles;
}

Handles<Executable>& executables() {
  static auto& handles = *new Handles<Executable>;
  return handles;
}

}  // namespace

cudaError_t enqueue(cudaStream_t handle, Operation operation) {
  const ApiCall call(operation.what);
  Stream* stream = find_stream(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (stream->capture != nullptr) return capture_operation(*stream, std::move(operation));
  issue(*stream, std::move(operation));
  return cudaSuccess;
}

}  // namespace cuda_emulator

using namespace cuda_emulator;

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  const ApiCall call(__func__);
  Stream* stream = find_stream(handle);
  if (stream == nullptr) return noted(cudaErrorInvalidResourceHandle);
  return noted(begin_capture(*stream, mode));
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  const ApiCall call(__func__);
  *graph = nullptr;
  Stream* stream = find_stream(handle);
  if (stream == nullptr) return noted(cudaErrorInvalidResourceHandle);
  auto nodes = std::make_shared<std::vector<Node>>();
  const cudaError_t status = end_capture(*stream, *nodes);
  if (status == cudaSuccess) *graph = static_cast<cudaGraph_t>(graphs().add(nodes));
  return noted(status);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  const ApiCall call(__func__);
  const Stream* stream = find_stream(handle);
  if (stream == nullptr) return noted(cudaErrorInvalidResourceHandle);
  if (stream->capture == nullptr)
    *status = cudaStreamCaptureStatusNone;
  else
    *status =
        stream->capture->valid ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  const ApiCall call(__func__);
  const Graph* nodes = graphs().find(graph);
  if (nodes == nullptr) return noted(cudaErrorInvalidValue);
  *executable =
      static_cast<cudaGraphExec_t>(executables().add(make_executable(*nodes, current_device())));
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  const ApiCall call(__func__);
  const Graph* captured = graphs().find(graph);
  if (captured == nullptr) return noted(cudaErrorInvalidValue);
  if (nodes != nullptr) fail("cudaGraphGetNodes: only the number of nodes is emulated");
  *count = (*captured)->size();
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
  const ApiCall call(__func__);
  const Executable* executable = executables().find(handle);
  Stream* stream = find_stream(stream_handle);
  if (executable == nullptr) return noted(cudaErrorInvalidValue);
  if (stream == nullptr) return noted(cudaErrorInvalidResourceHandle);
  if (stream->capture != nullptr)
    fail("cudaGraphLaunch while capturing: graphs in graphs are not emulated");
  launch_graph(**executable, *stream);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const ApiCall call(__func__);
  return noted(graphs().remove(graph) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle) {
  const ApiCall call(__func__);
  const Executable* executable = executables().find(handle);
  if (executable == nullptr) return noted(cudaErrorInvalidValue);
  for (const auto& lane : (*executable)->lanes) destroy_stream(*lane);
  executables().remove(handle);
  return cudaSuccess;
}
