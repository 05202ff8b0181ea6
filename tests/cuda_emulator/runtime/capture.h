// Capture of streams and the graphs that come of it: the operations, each with those that it comes
// after. A launch issues them to streams of the graph's own, one for each that was captured, so
// that the modes reorder them as they do everything else: only what the graph says is ordered.
#pragma once

#include <pthread.h>

#include <memory>
#include <vector>

#include "runtime/scheduler.h"

namespace cuda_emulator {

struct Node {
  Operation operation;
  std::vector<size_t> after;  // nodes
  size_t lane = 0;            // of its stream
};

struct Capture {
  const Stream* origin = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  pthread_t thread{};
  bool valid = true;
  std::vector<Stream*> lanes;  // captured streams; the first one is the origin
  std::vector<Node> nodes;
};

// What a launch of a graph needs, and what it leaves for the next one: its end.
struct ExecutableGraph {
  std::shared_ptr<const std::vector<Node>> nodes;
  std::vector<std::shared_ptr<Stream>> lanes;
  std::shared_ptr<Marker> end;
};

cudaError_t begin_capture(Stream& stream, cudaStreamCaptureMode mode);
cudaError_t end_capture(Stream& stream, std::vector<Node>& nodes);
// Adds a node behind what the stream's next operation depends on.
cudaError_t capture_operation(Stream& stream, Operation operation);
// What an event recorded in `capture` stands for is waited for: `stream` joins the capture.
cudaError_t join_capture(Stream& stream, const std::shared_ptr<Capture>& capture,
                         const std::vector<size_t>& frontier);

// Calls that a capture forbids: on the captured stream itself, or anywhere in the process (on this
// thread, if the capture is thread-local). They invalidate it and fail.
cudaError_t forbid_on_captured(Stream& stream);
cudaError_t forbid_while_capturing();

std::shared_ptr<ExecutableGraph> make_executable(std::shared_ptr<const std::vector<Node>> nodes,
                                                 int device);
void launch_graph(ExecutableGraph& graph, Stream& stream);

}  // namespace cuda_emulator
