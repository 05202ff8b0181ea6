// Programs with a bug of ordering if `planted`: found by a wrong result in some modes, and by
// ThreadSanitizer in every one.
#pragma once

#include <thread>

#include "programs.h"

namespace cuda_emulator::test {

// The result of one stream is used by another one.
inline void wait_between_streams(bool planted) {
  cudaStream_t first = make_stream(), second = make_stream();
  cudaEvent_t done = make_event();
  float *x = device_floats(), *y = device_floats();
  float *in = pinned_floats(1), *out = pinned_floats(0);
  upload(x, in, first);
  scale(x, 2, first);
  EXPECT_SUCCESS(cudaEventRecord(done, first));
  if (!planted) EXPECT_SUCCESS(cudaStreamWaitEvent(second, done, 0));
  add_one(y, x, second);
  download(out, y, second);
  EXPECT_SUCCESS(cudaStreamSynchronize(second));
  const bool result_is_3 = all_equal(out, 3);
  EXPECT(result_is_3);
}

inline void wait_before_reading(bool planted) {
  cudaStream_t stream = make_stream();
  float *x = device_floats();
  float *out = pinned_floats(4);
  EXPECT_SUCCESS(cudaMemsetAsync(x, 0, kBytes, stream));
  add_one(x, x, stream);
  scale(x, 4, stream);
  download(out, x, stream);  // what is there already is 4 by accident
  if (!planted) EXPECT_SUCCESS(cudaStreamSynchronize(stream));
  const bool result_is_4 = all_equal(out, 4);
  EXPECT(result_is_4);
}

inline void wait_before_overwriting(bool planted) {
  cudaStream_t stream = make_stream();
  float *x = device_floats();
  float *in = pinned_floats(5), *out = pinned_floats(0);
  upload(x, in, stream);
  if (!planted) EXPECT_SUCCESS(cudaStreamSynchronize(stream));
  for (int i = 0; i < kCount; ++i) in[i] = 6;
  download(out, x, stream);
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
  const bool result_is_5 = all_equal(out, 5);
  EXPECT(result_is_5);
}

inline void begin(cudaStream_t stream,
                  cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal) {
  EXPECT_SUCCESS(cudaStreamBeginCapture(stream, mode));
}

inline cudaGraphExec_t end(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  EXPECT_SUCCESS(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t executable = nullptr;
  EXPECT_SUCCESS(cudaGraphInstantiate(&executable, graph, 0));
  EXPECT_SUCCESS(cudaGraphDestroy(graph));
  return executable;
}

// Two branches of a graph on two streams, joined again; the second one reads what the first writes.
inline void order_branches(bool planted) {
  cudaStream_t stream = make_stream(), side = make_stream();
  cudaEvent_t fork = make_event(), join = make_event(), written = make_event();
  float *x = device_floats(), *y = device_floats();
  float *in = pinned_floats(1), *out = pinned_floats(0);
  begin(stream);
  upload(x, in, stream);
  EXPECT_SUCCESS(cudaEventRecord(fork, stream));
  EXPECT_SUCCESS(cudaStreamWaitEvent(side, fork, 0));
  scale(x, 4, stream);
  if (!planted) {
    EXPECT_SUCCESS(cudaEventRecord(written, stream));
    EXPECT_SUCCESS(cudaStreamWaitEvent(side, written, 0));
  }
  add_one(y, x, side);
  EXPECT_SUCCESS(cudaEventRecord(join, side));
  EXPECT_SUCCESS(cudaStreamWaitEvent(stream, join, 0));
  download(out, y, stream);
  const cudaGraphExec_t graph = end(stream);
  cudaStreamCaptureStatus status{};
  EXPECT_SUCCESS(cudaStreamIsCapturing(side, &status));
  EXPECT(status == cudaStreamCaptureStatusNone);
  for (int step = 0; step < 8; ++step) {
    EXPECT_SUCCESS(cudaGraphLaunch(graph, stream));
    EXPECT_SUCCESS(cudaStreamSynchronize(stream));
    const bool result_is_5 = all_equal(out, 5);
    EXPECT(result_is_5);
  }
}

// A stream works for one host thread; another one reads the result without a wait of its own.
inline void wait_on_each_thread(bool planted) {
  cudaStream_t stream = make_stream();
  float *x = device_floats();
  float *in = pinned_floats(1), *out = pinned_floats(0);
  upload(x, in, stream);
  download(out, x, stream);
  std::thread reader([=] {
    if (!planted) EXPECT_SUCCESS(cudaStreamSynchronize(stream));
    EXPECT(out[0] == 1 || planted);
  });
  if (planted) EXPECT_SUCCESS(cudaStreamSynchronize(stream));
  reader.join();
}

}  // namespace cuda_emulator::test
