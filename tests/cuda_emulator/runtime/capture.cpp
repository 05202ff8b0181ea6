#include "runtime/capture.h"

#include <algorithm>
#include <utility>

namespace cuda_emulator {
namespace {

std::vector<std::shared_ptr<Capture>>& active_captures() {
  static auto& captures = *new std::vector<std::shared_ptr<Capture>>;
  return captures;
}

size_t lane_of(Capture& capture, Stream& stream) {
  auto lane = std::find(capture.lanes.begin(), capture.lanes.end(), &stream);
  if (lane == capture.lanes.end()) lane = capture.lanes.insert(lane, &stream);
  return static_cast<size_t>(lane - capture.lanes.begin());
}

// Whether all nodes come before the end of the origin.
bool is_joined(const Capture& capture) {
  std::vector<bool> reached(capture.nodes.size());
  std::vector<size_t> left = capture.origin->frontier;
  while (!left.empty()) {
    const size_t node = left.back();
    left.pop_back();
    if (reached[node]) continue;
    reached[node] = true;
    const auto& after = capture.nodes[node].after;
    left.insert(left.end(), after.begin(), after.end());
  }
  return std::find(reached.begin(), reached.end(), false) == reached.end();
}

}  // namespace

cudaError_t begin_capture(Stream& stream, cudaStreamCaptureMode mode) {
  if (stream.capture != nullptr) return cudaErrorIllegalState;
  auto capture = std::make_shared<Capture>();
  capture->origin = &stream;
  capture->mode = mode;
  capture->thread = pthread_self();
  lane_of(*capture, stream);
  stream.capture = capture;
  active_captures().push_back(capture);
  return cudaSuccess;
}

cudaError_t end_capture(Stream& stream, std::vector<Node>& nodes) {
  const std::shared_ptr<Capture> capture = stream.capture;
  if (capture == nullptr) return cudaErrorIllegalState;
  if (capture->origin != &stream) return cudaErrorStreamCaptureUnmatched;
  if (capture->mode != cudaStreamCaptureModeRelaxed &&
      pthread_equal(capture->thread, pthread_self()) == 0)
    return cudaErrorStreamCaptureWrongThread;
  const bool joined = is_joined(*capture);
  for (Stream* lane : capture->lanes) {
    lane->capture = nullptr;
    lane->frontier.clear();
  }
  std::erase(active_captures(), capture);
  if (!capture->valid) return cudaErrorStreamCaptureInvalidated;
  if (!joined) return cudaErrorStreamCaptureUnjoined;
  nodes = std::move(capture->nodes);
  return cudaSuccess;
}

cudaError_t capture_operation(Stream& stream, Operation operation) {
  Capture& capture = *stream.capture;
  if (!capture.valid) return cudaErrorStreamCaptureInvalidated;
  capture.nodes.push_back({std::move(operation), stream.frontier, lane_of(capture, stream)});
  stream.frontier = {capture.nodes.size() - 1};
  return cudaSuccess;
}

cudaError_t join_capture(Stream& stream, const std::shared_ptr<Capture>& capture,
                         const std::vector<size_t>& frontier) {
  if (!capture->valid) return cudaErrorStreamCaptureInvalidated;
  if (stream.capture != nullptr && stream.capture != capture) {
    capture->valid = stream.capture->valid = false;
    return cudaErrorStreamCaptureMerge;
  }
  stream.capture = capture;
  lane_of(*capture, stream);
  for (const size_t node : frontier)
    if (std::find(stream.frontier.begin(), stream.frontier.end(), node) == stream.frontier.end())
      stream.frontier.push_back(node);
  return cudaSuccess;
}

cudaError_t forbid_on_captured(Stream& stream) {
  if (stream.capture == nullptr) return cudaSuccess;
  if (!std::exchange(stream.capture->valid, false)) return cudaErrorStreamCaptureInvalidated;
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t forbid_while_capturing() {
  cudaError_t status = cudaSuccess;
  for (const auto& capture : active_captures()) {
    const bool forbidden = capture->mode == cudaStreamCaptureModeGlobal ||
                           (capture->mode == cudaStreamCaptureModeThreadLocal &&
                            pthread_equal(capture->thread, pthread_self()) != 0);
    if (!forbidden) continue;
    capture->valid = false;
    status = cudaErrorStreamCaptureUnsupported;
  }
  return status;
}

std::shared_ptr<ExecutableGraph> make_executable(std::shared_ptr<const std::vector<Node>> nodes,
                                                 int device) {
  auto graph = std::make_shared<ExecutableGraph>();
  size_t num_lanes = 0;
  for (const Node& node : *nodes) num_lanes = std::max(num_lanes, node.lane + 1);
  for (size_t i = 0; i < num_lanes; ++i) graph->lanes.push_back(create_stream(device));
  graph->nodes = std::move(nodes);
  return graph;
}

// A graph never overlaps with itself: a launch starts after the end of the launch before.
void launch_graph(ExecutableGraph& graph, Stream& stream) {
  const auto& nodes = *graph.nodes;
  std::vector<std::shared_ptr<Marker>> start{mark(stream)}, done;
  if (graph.end != nullptr) start.push_back(graph.end);
  for (const Node& node : nodes) {
    Operation operation = node.operation;
    if (operation.work)
      operation.work = [nodes = graph.nodes, &node] { return node.operation.work(); };
    auto after = start;
    for (const size_t i : node.after) after.push_back(done[i]);
    done.push_back(std::make_shared<Marker>());
    issue(*graph.lanes[node.lane], std::move(operation), std::move(after), done.back());
  }
  graph.end = std::make_shared<Marker>();
  if (done.empty()) done = start;
  issue(stream, {.what = "the end of a graph"}, std::move(done), graph.end);
}

}  // namespace cuda_emulator
