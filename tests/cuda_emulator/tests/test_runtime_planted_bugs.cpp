// Bugs of host code, planted one at a time: the emulator must catch each one, in the mode that the
// test names, and let the same program without the bug pass in all modes.
#include <cstring>

#include "runtime_bugs.h"

namespace cuda_emulator::test {
namespace {

constexpr const char* kModes[] = {"eager", "lazy", "random"};

using Program = void (*)(bool planted);

void check_control(Program program) {
  for (const char* mode : kModes) {
    INFO(mode);
    check_success(run_in_child(in_mode(mode), [&] { program(false); }));
  }
}

Ended run_planted(const char* mode, Program program) {
  return run_in_child(in_mode(mode), [&] { program(true); });
}

void read_on_the_host(bool planted) {
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  float* out = pinned_floats(0);
  EXPECT_SUCCESS(cudaMemsetAsync(x, 0, kBytes, stream));
  download(out, x, stream);
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
  const volatile float* read = planted ? x : out;
  EXPECT(read[3] == 0);
}

void write_on_the_host(bool planted) {
  float* x = device_floats();
  float* pinned = pinned_floats(0);
  volatile float* written = planted ? x : pinned;
  written[kCount - 1] = 1;
}

void use_after_free(bool planted) {
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  EXPECT_SUCCESS(cudaMemsetAsync(x, 0, kBytes, stream));
  if (planted) EXPECT_SUCCESS(cudaFree(x));
  scale(x, 2, stream);
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
}

void copy_after_free(bool planted) {
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  float* in = pinned_floats(1);
  if (planted) EXPECT_SUCCESS(cudaFreeAsync(x, stream));
  upload(x, in, stream);
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
}

void free_before_use(bool planted) {
  cudaStream_t first = make_stream(), second = make_stream();
  float* x = device_floats();
  float* in = pinned_floats(1);
  upload(x, in, first);
  cudaEvent_t done = make_event();
  EXPECT_SUCCESS(cudaEventRecord(done, first));
  if (!planted) EXPECT_SUCCESS(cudaStreamWaitEvent(second, done, 0));
  EXPECT_SUCCESS(cudaFreeAsync(x, second));
  EXPECT_SUCCESS(cudaStreamSynchronize(second));
  EXPECT_SUCCESS(cudaStreamSynchronize(first));
}

void use_before_allocation(bool planted) {
  cudaStream_t first = make_stream(), second = make_stream();
  void* x = nullptr;
  EXPECT_SUCCESS(cudaMallocAsync(&x, kBytes, first));
  cudaEvent_t done = make_event();
  EXPECT_SUCCESS(cudaEventRecord(done, first));
  if (!planted) EXPECT_SUCCESS(cudaStreamWaitEvent(second, done, 0));
  EXPECT_SUCCESS(cudaMemsetAsync(x, 0, kBytes, second));
  EXPECT_SUCCESS(cudaStreamSynchronize(second));
}

void copy_too_long(bool planted) {
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  float* in = pinned_floats(1, kCount + 1);
  EXPECT_SUCCESS(
      cudaMemcpyAsync(x, in, kBytes + (planted ? 4 : 0), cudaMemcpyHostToDevice, stream));
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
}

void copy_too_long_from_pinned(bool planted) {
  cudaStream_t stream = make_stream();
  float* x = device_floats(kCount + 1);
  float* in = pinned_floats(1);
  EXPECT_SUCCESS(
      cudaMemcpyAsync(x, in, kBytes + (planted ? 4 : 0), cudaMemcpyHostToDevice, stream));
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
}

void kernel_out_of_bounds(bool planted) {
  cudaStream_t stream = make_stream();
  float* x = device_floats();
  EXPECT_SUCCESS(cudaMemsetAsync(x, 0, kBytes, stream));
  EXPECT_SUCCESS(
      launch(stream, scale_kernel, dim3(8), dim3(128), 0, x, 2.0F, kCount + (planted ? 1 : 0)));
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
}

// 1001 floats end 12 bytes before the guard.
void kernel_writes_the_tail(bool planted) {
  cudaStream_t stream = make_stream();
  float* x = device_floats(1001);
  float* y = device_floats(1024);
  EXPECT_SUCCESS(cudaMemsetAsync(y, 0, 4096, stream));
  EXPECT_SUCCESS(launch(stream, add_one_kernel, dim3(9), dim3(128), 0, x,
                        static_cast<const float*>(y), planted ? 1002 : 1001));
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
}

void host_pointer_into_kernel(bool planted) {
  cudaStream_t stream = make_stream();
  std::vector<float> pageable(kCount);
  scale(planted ? pageable.data() : pinned_floats(1), 2, stream);
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
}

struct Pair {
  bool doubled;  // what lies behind it is of no importance
  float* x;
};
inline void scale_pair_kernel(Pair pair) {
  if (pair.doubled) pair.x[threadIdx.x] *= 2;
}

void host_pointer_in_structure(bool planted) {
  cudaStream_t stream = make_stream();
  std::vector<float> pageable(kCount);
  Pair pair;
  std::memset(&pair, 0x7E, sizeof pair);
  const float* somewhere = pageable.data();
  std::memcpy(&pair, &somewhere, sizeof somewhere);
  pair.doubled = true;
  pair.x = planted ? pageable.data() : device_floats();
  EXPECT_SUCCESS(launch(stream, scale_pair_kernel, dim3(1), dim3(32), 0, pair));
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
}

void default_stream(bool planted) {
  float* x = device_floats();
  cudaStream_t stream = make_stream();
  EXPECT_SUCCESS(cudaMemsetAsync(x, 0, kBytes, planted ? nullptr : stream));
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
}

void pageable_copy(bool planted) {
  float* x = device_floats();
  std::vector<float> pageable(kCount);
  cudaStream_t stream = make_stream();
  upload(x, planted ? pageable.data() : pinned_floats(0), stream);
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
}

void wait_for_event_never_recorded(bool planted) {
  cudaStream_t first = make_stream(), second = make_stream();
  cudaEvent_t done = make_event();
  if (!planted) EXPECT_SUCCESS(cudaEventRecord(done, first));
  EXPECT_SUCCESS(cudaStreamWaitEvent(second, done, 0));
}

void cuda_in_host_function(bool planted) {
  cudaStream_t stream = make_stream();
  const auto function = [](void* call) {
    void* p = nullptr;
    if (call != nullptr) cudaMalloc(&p, 4);
  };
  int call = 1;
  EXPECT_SUCCESS(cudaLaunchHostFunc(stream, function, planted ? &call : nullptr));
  EXPECT_SUCCESS(cudaStreamSynchronize(stream));
}

}  // namespace

TEST_CASE("a missing wait between streams is found in lazy mode") {
  check_control(wait_between_streams);
  check_wrong(run_planted("lazy", wait_between_streams), "result_is_3");
}

TEST_CASE("a host that reads pinned memory too early is found in lazy mode") {
  check_control(wait_before_reading);
  check_wrong(run_planted("lazy", wait_before_reading), "result_is_4");
}

TEST_CASE("a host that overwrites a pinned source too early is found in lazy mode") {
  check_control(wait_before_overwriting);
  check_wrong(run_planted("lazy", wait_before_overwriting), "result_is_5");
}

TEST_CASE("the host touches device memory: found in every mode") {
  check_control(read_on_the_host);
  check_control(write_on_the_host);
  for (const char* mode : kModes) {
    check_stopped(run_planted(mode, read_on_the_host), "host code touches device memory: read");
    check_stopped(run_planted(mode, write_on_the_host), "host code touches device memory: write");
  }
  check_stopped(run_planted("eager", write_on_the_host),
                "byte 3996 of allocation 1 (4000 bytes, device), in host code");
}

TEST_CASE("use after free is found in every mode") {
  check_control(use_after_free);
  check_control(copy_after_free);
  for (const char* mode : kModes) {
    check_stopped(run_planted(mode, use_after_free), "scale_kernel: argument 0");
    check_stopped(run_planted(mode, use_after_free), "use after free, of allocation 1");
    check_stopped(run_planted(mode, copy_after_free), "use after free, of allocation 1");
  }
}

TEST_CASE("memory freed by one stream before another one is done is found in lazy mode") {
  check_control(free_before_use);
  check_stopped(run_planted("lazy", free_before_use), "use after free: write");
}

TEST_CASE("memory used by one stream before another one has it allocated is found in lazy mode") {
  check_control(use_before_allocation);
  check_stopped(run_planted("lazy", use_before_allocation), "used before the cudaMallocAsync");
}

TEST_CASE("copies and kernels out of bounds are found in every mode") {
  for (const Program program :
       {copy_too_long, copy_too_long_from_pinned, kernel_out_of_bounds, kernel_writes_the_tail})
    check_control(program);
  for (const char* mode : kModes) {
    check_stopped(run_planted(mode, copy_too_long), "cudaMemcpyAsync, target: ");
    check_stopped(run_planted(mode, copy_too_long_from_pinned), "cudaMemcpyAsync, source: ");
    const Ended ended = run_planted(mode, kernel_out_of_bounds);
    check_stopped(ended, "out of bounds, past the last byte: read");
    check_stopped(ended, "byte 4000 of allocation 1 (4000 bytes, device), in scale_kernel");
    check_stopped(ended, "block (7, 0, 0)");
    check_stopped(run_planted(mode, kernel_writes_the_tail),
                  "add_one_kernel wrote byte 4004 of allocation 1 (4004 bytes)");
  }
}

TEST_CASE("pageable host memory in kernels and asynchronous copies is found in every mode") {
  for (const Program program : {host_pointer_into_kernel, host_pointer_in_structure, pageable_copy})
    check_control(program);
  for (const char* mode : kModes) {
    check_stopped(run_planted(mode, host_pointer_into_kernel), "neither device memory nor pinned");
    check_stopped(run_planted(mode, host_pointer_in_structure),
                  "scale_pair_kernel: argument 0 holds at byte 8 the address");
    check_stopped(run_planted(mode, pageable_copy), "is pageable host memory");
  }
}

TEST_CASE("what CUDA would let pass in silence is found in every mode") {
  for (const Program program :
       {default_stream, wait_for_event_never_recorded, cuda_in_host_function})
    check_control(program);
  for (const char* mode : kModes) {
    check_stopped(run_planted(mode, default_stream), "the default stream is used");
    check_stopped(run_planted(mode, wait_for_event_never_recorded), "was never recorded");
    check_stopped(run_planted(mode, cuda_in_host_function),
                  "cudaMalloc is called by a host function");
  }
}

}  // namespace cuda_emulator::test
