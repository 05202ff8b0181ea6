// Capture and replay: what is captured does not run, what is replayed runs with the dependencies
// that were recorded and no others, and what a capture forbids fails as in CUDA.
#include "cuda_emulator/counters.h"
#include "runtime_bugs.h"

namespace cuda_emulator::test {
namespace {

void check_in_all_modes(void (*program)()) {
  for (const char* mode : {"eager", "lazy"}) {
    INFO(mode);
    check_success(run_in_child(in_mode(mode), program));
  }
  for (const char* seed : {"1", "2", "3", "4", "5", "6", "7", "8"}) {
    INFO("random, seed " << seed);
    check_success(run_in_child(in_mode("random", seed), program));
  }
}

void replay_with_new_data() {
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  float *in = pinned_floats(1), *out = pinned_floats(0);
  begin(stream);
  upload(x, in, stream);
  scale(x, 3, stream);
  download(out, x, stream);
  const cudaGraphExec_t graph = end(stream);
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
  EXPECT(all_equal(out, 0));  // captured, not run
  for (int step = 1; step <= 3; ++step) {
    for (int i = 0; i < kCount; ++i) in[i] = static_cast<float>(step);
    EXPECT_SUCCESS(cudaGraphLaunch(graph, stream));
    EXPECT_SUCCESS(cudaStreamSynchronize(stream));
    EXPECT(all_equal(out, 3 * static_cast<float>(step)));
  }
  EXPECT_SUCCESS(cudaGraphExecDestroy(graph));
  EXPECT(cudaGraphLaunch(graph, stream) == cudaErrorInvalidValue);
}

// Launches are ordered with what is around them, and with each other, on whatever streams.
void launches_follow_each_other() {
  cudaStream_t first = make_stream(), second = make_stream();
  float* x = device_floats();
  float *in = pinned_floats(1), *out = pinned_floats(0);
  begin(first);
  scale(x, 2, first);
  add_one(x, x, first);
  const cudaGraphExec_t graph = end(first);
  upload(x, in, first);
  EXPECT_SUCCESS(cudaGraphLaunch(graph, first));   // 3
  EXPECT_SUCCESS(cudaGraphLaunch(graph, second));  // 7
  cudaEvent_t done = make_event();
  EXPECT_SUCCESS(cudaEventRecord(done, second));
  EXPECT_SUCCESS(cudaStreamWaitEvent(first, done, 0));
  scale(x, 10, first);
  download(out, x, first);
  EXPECT_SUCCESS(cudaStreamSynchronize(first));
  EXPECT(all_equal(out, 70));
}

void accumulate_kernel(float* sum, const float* x) { sum[threadIdx.x] += x[threadIdx.x]; }

// The second launch doubles x when the first one's other branch has read it.
void launches_do_not_overlap() {
  cudaStream_t first = make_stream(), second = make_stream(), side = make_stream();
  cudaEvent_t fork = make_event(), join = make_event(), ready = make_event();
  float *x = device_floats(), *sum = device_floats();
  float *in = pinned_floats(1), *out = pinned_floats(0);
  const float* const read = x;
  begin(first);
  scale(x, 2, first);
  EXPECT_SUCCESS(cudaEventRecord(fork, first));
  EXPECT_SUCCESS(cudaStreamWaitEvent(side, fork, 0));
  EXPECT_SUCCESS(launch(side, accumulate_kernel, dim3(1), dim3(kCount), 0, sum, read));
  EXPECT_SUCCESS(cudaEventRecord(join, side));
  EXPECT_SUCCESS(cudaStreamWaitEvent(first, join, 0));
  const cudaGraphExec_t graph = end(first);
  upload(x, in, first);
  EXPECT_SUCCESS(cudaMemsetAsync(sum, 0, kBytes, first));
  EXPECT_SUCCESS(cudaEventRecord(ready, first));
  EXPECT_SUCCESS(cudaStreamWaitEvent(second, ready, 0));
  EXPECT_SUCCESS(cudaGraphLaunch(graph, first));   // sum 2
  EXPECT_SUCCESS(cudaGraphLaunch(graph, second));  // sum 2 + 4
  EXPECT_SUCCESS(cudaStreamSynchronize(second));
  download(out, sum, second);
  EXPECT_SUCCESS(cudaStreamSynchronize(second));
  EXPECT(all_equal(out, 6));
}

void expect_invalidated(cudaStream_t stream) {
  cudaStreamCaptureStatus status{};
  EXPECT_SUCCESS(cudaStreamIsCapturing(stream, &status));
  EXPECT(status == cudaStreamCaptureStatusInvalidated);
  float* const nothing = nullptr;
  EXPECT(launch(stream, scale_kernel, dim3(1), dim3(1), 0, nothing, 1.0F, 0) ==
         cudaErrorStreamCaptureInvalidated);
  cudaGraph_t graph = nullptr;
  EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
  EXPECT(graph == nullptr);
}

using Call = cudaError_t (*)(cudaStream_t captured, float* device);

// Each one fails, and the capture with it.
void check_forbidden(const char* name, Call call, cudaError_t expected,
                     cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal) {
  INFO(name);
  check_success(run_in_child(in_mode("eager"), [=] {
    cudaStream_t stream = make_stream();
    float* device = device_floats();
    begin(stream, mode);
    scale(device, 2, stream);
    const cudaError_t status = call(stream, device);
    if (status != expected) fprintf(stderr, "%s\n", cudaGetErrorName(status));
    EXPECT(status == expected);
    EXPECT(cudaGetLastError() == expected);
    expect_invalidated(stream);
  }));
}

}  // namespace

TEST_CASE("a graph is replayed with other data") { check_in_all_modes(replay_with_new_data); }

TEST_CASE("branches of a graph are ordered by its edges alone") {
  check_in_all_modes([] { order_branches(false); });
  check_wrong(run_in_child(in_mode("random"), [] { order_branches(true); }), "result_is_5");
}

TEST_CASE("launches of one graph follow each other") {
  check_in_all_modes(launches_follow_each_other);
  check_in_all_modes(launches_do_not_overlap);
}

TEST_CASE("a graph has a node for each operation, and each launch counts them") {
  check_success(run_in_child(in_mode("lazy"), [] {
    cudaStream_t stream = make_stream();
    float* x = device_floats();
    begin(stream);
    scale(x, 2, stream);
    scale(x, 2, stream);
    EXPECT_SUCCESS(cudaMemsetAsync(x, 0, kBytes, stream));
    cudaGraph_t graph = nullptr;
    EXPECT_SUCCESS(cudaStreamEndCapture(stream, &graph));
    size_t nodes = 0;
    EXPECT_SUCCESS(cudaGraphGetNodes(graph, nullptr, &nodes));
    EXPECT(nodes == 3);
    cuda_emulator_count counted{};
    EXPECT(cuda_emulator_counts(CUDA_EMULATOR_KERNEL, &counted, 1) == 0);
    cudaGraphExec_t executable = nullptr;
    EXPECT_SUCCESS(cudaGraphInstantiate(&executable, graph, 0));
    for (int i = 0; i < 2; ++i) EXPECT_SUCCESS(cudaGraphLaunch(executable, stream));
    EXPECT(cuda_emulator_counts(CUDA_EMULATOR_KERNEL, &counted, 1) == 1);
    EXPECT(counted.calls == 4);
    EXPECT(counted.amount == 128);
  }));
}

TEST_CASE("a capture forbids what waits, asks or allocates") {
  constexpr cudaError_t kUnsupported = cudaErrorStreamCaptureUnsupported;
  check_forbidden(
      "cudaStreamSynchronize",
      [](cudaStream_t stream, float*) { return cudaStreamSynchronize(stream); }, kUnsupported,
      cudaStreamCaptureModeRelaxed);
  check_forbidden(
      "cudaStreamQuery", [](cudaStream_t stream, float*) { return cudaStreamQuery(stream); },
      kUnsupported, cudaStreamCaptureModeRelaxed);
  check_forbidden(
      "cudaStreamSynchronize of another stream",
      [](cudaStream_t, float*) { return cudaStreamSynchronize(make_stream()); }, kUnsupported);
  check_forbidden(
      "cudaDeviceSynchronize", [](cudaStream_t, float*) { return cudaDeviceSynchronize(); },
      kUnsupported, cudaStreamCaptureModeThreadLocal);
  check_forbidden(
      "cudaMalloc",
      [](cudaStream_t, float*) {
        void* p = nullptr;
        return cudaMalloc(&p, 16);
      },
      kUnsupported);
  check_forbidden(
      "cudaMallocHost",
      [](cudaStream_t, float*) {
        void* p = nullptr;
        return cudaMallocHost(&p, 16);
      },
      kUnsupported);
  check_forbidden(
      "cudaMallocAsync",
      [](cudaStream_t stream, float*) {
        void* p = nullptr;
        return cudaMallocAsync(&p, 16, stream);
      },
      kUnsupported);
  check_forbidden(
      "cudaFree", [](cudaStream_t, float* device) { return cudaFree(device); }, kUnsupported);
  check_forbidden(
      "cudaEventQuery",
      [](cudaStream_t stream, float*) {
        cudaEvent_t event = make_event();
        EXPECT_SUCCESS(cudaEventRecord(event, stream));
        return cudaEventQuery(event);
      },
      cudaErrorCapturedEvent, cudaStreamCaptureModeRelaxed);
  check_forbidden(
      "cudaEventSynchronize of an event outside",
      [](cudaStream_t, float*) {
        cudaEvent_t event = make_event();
        EXPECT_SUCCESS(cudaEventRecord(event, make_stream()));
        return cudaEventSynchronize(event);
      },
      kUnsupported);
  check_forbidden(
      "a wait for work outside",
      [](cudaStream_t stream, float*) {
        cudaEvent_t event = make_event();
        EXPECT_SUCCESS(cudaEventRecord(event, make_stream()));
        return cudaStreamWaitEvent(stream, event, 0);
      },
      cudaErrorStreamCaptureIsolation);
}

TEST_CASE("a relaxed capture lets others allocate and wait") {
  check_success(run_in_child(in_mode("eager"), [] {
    cudaStream_t stream = make_stream(), other = make_stream();
    float* x = device_floats();
    begin(stream, cudaStreamCaptureModeRelaxed);
    scale(x, 2, stream);
    EXPECT_SUCCESS(cudaFree(device_floats()));
    EXPECT_SUCCESS(cudaStreamSynchronize(other));
    end(stream);
  }));
}

TEST_CASE("captures end where they began, with all their branches joined") {
  check_success(run_in_child(in_mode("eager"), [] {
    cudaStream_t stream = make_stream(), side = make_stream();
    float* x = device_floats();
    cudaEvent_t fork = make_event();
    cudaGraph_t graph = nullptr;
    EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorIllegalState);
    begin(stream);
    EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaErrorIllegalState);
    EXPECT_SUCCESS(cudaEventRecord(fork, stream));
    EXPECT_SUCCESS(cudaStreamWaitEvent(side, fork, 0));
    scale(x, 2, side);
    EXPECT(cudaStreamEndCapture(side, &graph) == cudaErrorStreamCaptureUnmatched);
    EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureUnjoined);
    EXPECT(graph == nullptr);
    EXPECT_SUCCESS(cudaStreamSynchronize(side));  // free again
  }));
}

TEST_CASE("two captures do not merge") {
  check_success(run_in_child(in_mode("eager"), [] {
    cudaStream_t first = make_stream(), second = make_stream();
    cudaEvent_t event = make_event();
    begin(first);
    begin(second);
    EXPECT_SUCCESS(cudaEventRecord(event, first));
    EXPECT(cudaStreamWaitEvent(second, event, 0) == cudaErrorStreamCaptureMerge);
    expect_invalidated(first);
  }));
}

}  // namespace cuda_emulator::test
