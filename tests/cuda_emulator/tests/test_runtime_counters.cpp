// The counters are exact: of every call what it asked for, the same in each run.
#include <map>

#include "cuda_emulator/counters.h"
#include "programs.h"

namespace cuda_emulator::test {
namespace {

using Counts = std::map<std::string, std::pair<unsigned long long, unsigned long long>>;

Counts counts_of(cuda_emulator_kind kind) {
  cuda_emulator_count counts[16];
  const size_t n = cuda_emulator_counts(kind, counts, 16);
  Counts by_name;
  for (size_t i = 0; i < n; ++i) by_name[counts[i].what] = {counts[i].calls, counts[i].amount};
  return by_name;
}

void count_a_program() {
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  float *in = pinned_floats(1), *out = pinned_floats(0);
  cuda_emulator_reset_counts();
  upload(x, in, stream);
  EXPECT_SUCCESS(cudaMemsetAsync(x, 0, 100, stream));
  for (int i = 0; i < 3; ++i) scale(x, 2, stream);
  add_one(x, x, stream);
  download(out, x, stream);
  download(out, x, stream);
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
  EXPECT_SUCCESS(cudaFree(device_floats(10)));
  EXPECT((counts_of(CUDA_EMULATOR_KERNEL) ==
          Counts{{"add_one_kernel", {1, 32}}, {"scale_kernel", {3, 96}}}));
  EXPECT((counts_of(CUDA_EMULATOR_COPY) == Counts{{"cudaMemcpyAsync host to device", {1, 4000}},
                                                  {"cudaMemcpyAsync device to host", {2, 8000}},
                                                  {"cudaMemsetAsync", {1, 100}}}));
  EXPECT((counts_of(CUDA_EMULATOR_HOST_WAIT) ==
          Counts{{"cudaFree", {1, 0}}, {"cudaStreamSynchronize", {1, 0}}}));
  EXPECT((counts_of(CUDA_EMULATOR_ALLOCATION) == Counts{{"cudaMalloc", {1, 40}}}));
  EXPECT(counts_of(CUDA_EMULATOR_BLAS).empty());
  EXPECT(cuda_emulator_counts(CUDA_EMULATOR_COPY, nullptr, 0) == 3);
}

}  // namespace

TEST_CASE("operations are counted when they are issued, in every mode") {
  for (const char* mode : {"eager", "lazy", "random"}) {
    INFO(mode);
    check_success(run_in_child(in_mode(mode), count_a_program));
  }
}

TEST_CASE("a wait that polls counts once for each point, in lazy mode") {
  check_success(run_in_child(in_mode("lazy"), [] {
    cudaStream_t stream = make_stream();
    float* x = device_floats();
    cudaEvent_t done = make_event();
    for (int wait = 0; wait < 2; ++wait) {
      EXPECT_SUCCESS(cudaMemsetAsync(x, 0, kBytes, stream));
      scale(x, 2, stream);
      EXPECT_SUCCESS(cudaEventRecord(done, stream));
      int questions = 1;
      for (; cudaEventQuery(done) == cudaErrorNotReady; ++questions) continue;
      EXPECT(questions > 2);
    }
    EXPECT((counts_of(CUDA_EMULATOR_HOST_WAIT) == Counts{{"cudaEventQuery", {2, 0}}}));
    scale(x, 2, stream);
    while (cudaStreamQuery(stream) == cudaErrorNotReady) continue;
    EXPECT(counts_of(CUDA_EMULATOR_HOST_WAIT)["cudaStreamQuery"].first == 1);
  }));
}

}  // namespace cuda_emulator::test
