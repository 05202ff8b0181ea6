// Device memory, pinned memory, devices, launches: what a program may see of them, and the errors
// that CUDA returns.
#include <cmath>
#include <cstring>
#include <set>
#include <thread>

#include "programs.h"

namespace cuda_emulator::test {
namespace {

void check_program(const Environment& environment, void (*program)()) {
  check_success(run_in_child(environment, program));
}

void block_of(cudaStream_t stream, size_t shared_bytes, cudaError_t expected) {
  float* const x = device_floats();
  EXPECT(launch(stream, scale_kernel, dim3(1), dim3(32), shared_bytes, x, 1.0F, 0) == expected);
}

cudaError_t try_launch(cudaStream_t stream, dim3 grid, dim3 block) {
  float* const nothing = nullptr;
  return launch(stream, scale_kernel, grid, block, 0, nothing, 1.0F, 0);
}

}  // namespace

TEST_CASE("new memory is NaN, and its address is aligned and never seen again") {
  check_program(in_mode("eager"), [] {
    cudaStream_t stream = make_stream();
    float* out = pinned_floats(0);
    std::set<float*> seen;
    for (int i = 0; i < 50; ++i) {
      float* x = device_floats();
      EXPECT(reinterpret_cast<uintptr_t>(x) % 16 == 0);
      EXPECT(seen.insert(x).second);
      download(out, x, stream);
      EXPECT_SUCCESS(cudaStreamSynchronize(stream));
      EXPECT(std::isnan(out[0]) && std::isnan(out[kCount - 1]));
      EXPECT_SUCCESS(cudaFree(x));
    }
    void* pinned = nullptr;
    EXPECT_SUCCESS(cudaMallocHost(&pinned, 4));
    EXPECT(*static_cast<int*>(pinned) == -1);
  });
}

TEST_CASE("multiples of 256 bytes are aligned to 256") {
  check_program(in_mode("eager"), [] {
    void* p = nullptr;
    EXPECT_SUCCESS(cudaMalloc(&p, size_t{5} * 256));
    EXPECT(reinterpret_cast<uintptr_t>(p) % 256 == 0);
  });
}

TEST_CASE("memory that is not there is refused, and counted until it is freed") {
  check_program({{"SWITCHYARD_CUDA_MEMORY", "1000000"}}, [] {
    size_t free_bytes = 0, total_bytes = 0;
    EXPECT_SUCCESS(cudaMemGetInfo(&free_bytes, &total_bytes));
    EXPECT(free_bytes == 1000000 && total_bytes == 1000000);
    void *p = nullptr, *q = nullptr, *pinned = nullptr;
    EXPECT_SUCCESS(cudaMalloc(&p, 600000));
    EXPECT_SUCCESS(cudaMallocHost(&pinned, 600000));
    EXPECT(cudaMalloc(&q, 600000) == cudaErrorMemoryAllocation);
    EXPECT(q == nullptr);
    EXPECT(cudaGetLastError() == cudaErrorMemoryAllocation);
    EXPECT(cudaGetLastError() == cudaSuccess);
    EXPECT_SUCCESS(cudaMemGetInfo(&free_bytes, &total_bytes));
    EXPECT(free_bytes == 400000);
    EXPECT_SUCCESS(cudaFree(p));
    EXPECT_SUCCESS(cudaMalloc(&q, 600000));
    EXPECT_SUCCESS(cudaMalloc(&q, 0));
    EXPECT(q == nullptr);
    EXPECT_SUCCESS(cudaFree(nullptr));
  });
}

TEST_CASE("memory allocated and freed in the order of a stream") {
  check_program(in_mode("lazy"), [] {
    cudaStream_t stream = make_stream();
    float* out = pinned_floats(0);
    void* memory = nullptr;
    EXPECT_SUCCESS(cudaMallocAsync(&memory, kBytes, stream));
    auto* x = static_cast<float*>(memory);
    EXPECT_SUCCESS(cudaMemsetAsync(x, 0, kBytes, stream));
    add_one(x, x, stream);
    download(out, x, stream);
    EXPECT_SUCCESS(cudaFreeAsync(x, stream));
    EXPECT_SUCCESS(cudaStreamSynchronize(stream));
    EXPECT(all_equal(out, 1));
  });
}

TEST_CASE("what cannot be freed stops the test") {
  const auto stopped = [](void (*program)(), const char* message) {
    check_stopped(run_in_child(in_mode("eager"), program), message);
  };
  stopped([] { cudaFree(device_floats() + 4); }, "is not the begin of an allocation");
  stopped([] { cudaFree(pinned_floats(0)); }, "allocation 1 is pinned host memory");
  stopped([] { cudaFreeHost(device_floats()); }, "allocation 1 is device memory");
  stopped(
      [] {
        float* x = device_floats();
        cudaFree(x);
        cudaFree(x);
      },
      "is freed twice");
}

TEST_CASE("pinned memory ends at its end, and with cudaFreeHost") {
  check_stopped(run_in_child(in_mode("eager"),
                             [] {
                               volatile float* x = pinned_floats(0, 1024);
                               x[1024] = 1;
                             }),
                "host code touches pinned memory out of bounds: write");
  check_stopped(run_in_child(in_mode("eager"),
                             [] {
                               volatile float* x = pinned_floats(0);
                               EXPECT_SUCCESS(cudaFreeHost(const_cast<float*>(x)));
                               x[0] = 1;
                             }),
                "host code touches freed pinned memory: write");
}

TEST_CASE("what memory an address belongs to") {
  check_program(in_mode("eager"), [] {
    cudaPointerAttributes attributes{};
    float* x = device_floats();
    EXPECT_SUCCESS(cudaPointerGetAttributes(&attributes, x + 7));
    EXPECT(attributes.type == cudaMemoryTypeDevice && attributes.devicePointer == x + 7);
    EXPECT_SUCCESS(cudaPointerGetAttributes(&attributes, pinned_floats(0)));
    EXPECT(attributes.type == cudaMemoryTypeHost);
    EXPECT_SUCCESS(cudaPointerGetAttributes(&attributes, &attributes));
    EXPECT(attributes.type == cudaMemoryTypeUnregistered);
  });
}

TEST_CASE("devices: as many as the machine has, of which CUDA_VISIBLE_DEVICES chooses") {
  check_program({{"SWITCHYARD_CUDA_DEVICES", "4"}}, [] {
    int count = 0, device = -1;
    EXPECT_SUCCESS(cudaGetDeviceCount(&count));
    EXPECT(count == 4);
    EXPECT_SUCCESS(cudaSetDevice(3));
    EXPECT_SUCCESS(cudaGetDevice(&device));
    EXPECT(device == 3);
    std::thread([] {
      int of_thread = -1;
      EXPECT_SUCCESS(cudaGetDevice(&of_thread));
      EXPECT(of_thread == 0);
    }).join();
    EXPECT(cudaSetDevice(4) == cudaErrorInvalidDevice);
    std::set<std::string> uuids;
    for (int i = 0; i < 4; ++i) {
      cudaDeviceProp properties{};
      EXPECT_SUCCESS(cudaGetDeviceProperties(&properties, i));
      EXPECT(uuids.emplace(properties.uuid.bytes, 16).second);
    }
  });
  check_program({{"SWITCHYARD_CUDA_DEVICES", "4"}, {"CUDA_VISIBLE_DEVICES", "2"}}, [] {
    int count = 0;
    EXPECT_SUCCESS(cudaGetDeviceCount(&count));
    EXPECT(count == 1);
    cudaDeviceProp properties{};
    EXPECT_SUCCESS(cudaGetDeviceProperties(&properties, 0));
    EXPECT(std::strcmp(properties.name, "emulated GPU 2") == 0);
    EXPECT(std::memcmp(properties.uuid.bytes, "emulated GPU\2\0\0\0", 16) == 0);
  });
  check_program({{"CUDA_VISIBLE_DEVICES", ""}}, [] {
    int count = -1;
    EXPECT(cudaGetDeviceCount(&count) == cudaErrorNoDevice);
    EXPECT(count == 0);
    EXPECT(cudaSetDevice(0) == cudaErrorNoDevice);
  });
}

TEST_CASE("a device does not reach the memory of another one, nor its streams") {
  const Environment two_devices{{"SWITCHYARD_CUDA_DEVICES", "2"}};
  check_program(two_devices, [] {
    cudaStream_t stream = make_stream();
    EXPECT_SUCCESS(cudaSetDevice(1));
    float* x = device_floats();
    EXPECT(launch(stream, scale_kernel, dim3(1), dim3(1), 0, x, 1.0F, 1) ==
           cudaErrorInvalidResourceHandle);
    scale(x, 2, make_stream());
    EXPECT_SUCCESS(cudaDeviceSynchronize());
  });
  check_stopped(run_in_child(two_devices,
                             [] {
                               float* x = device_floats();
                               EXPECT_SUCCESS(cudaSetDevice(1));
                               scale(x, 2, make_stream());
                             }),
                "memory of another device: read");
}

TEST_CASE("launches out of the limits are refused") {
  check_program(in_mode("eager"), [] {
    cudaStream_t stream = make_stream();
    EXPECT(try_launch(stream, dim3(1), dim3(1024)) == cudaSuccess);
    EXPECT(try_launch(stream, dim3(1), dim3(16, 1, 64)) == cudaSuccess);
    EXPECT(try_launch(stream, dim3(1, 65535), dim3(1)) == cudaSuccess);
    const std::pair<dim3, dim3> wrong[] = {
        {dim3(0), dim3(1)},           {dim3(1), dim3(0)},        {dim3(1), dim3(1025)},
        {dim3(1), dim3(32, 33)},      {dim3(1), dim3(1, 1, 65)}, {dim3(1, 65536), dim3(1)},
        {dim3(1, 1, 65536), dim3(1)}, {dim3(1, 0), dim3(1)},     {dim3(0x80000000U), dim3(1)}};
    for (const auto& [grid, block] : wrong) {
      EXPECT(try_launch(stream, grid, block) == cudaErrorInvalidConfiguration);
      EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
    }
    EXPECT(try_launch(reinterpret_cast<cudaStream_t>(&stream), dim3(1), dim3(1)) ==
           cudaErrorInvalidResourceHandle);
  });
}

TEST_CASE("shared memory above 48 KiB must be asked for") {
  check_program(in_mode("eager"), [] {
    cudaStream_t stream = make_stream();
    const auto allow = [](int bytes) {
      return cudaFuncSetAttribute(reinterpret_cast<const void*>(&scale_kernel),
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    };
    block_of(stream, 48 << 10, cudaSuccess);
    block_of(stream, (48 << 10) + 16, cudaErrorInvalidValue);
    EXPECT_SUCCESS(allow(100 << 10));
    block_of(stream, 100 << 10, cudaSuccess);
    block_of(stream, (100 << 10) + 16, cudaErrorInvalidValue);
    EXPECT(allow((163 << 10) + 16) == cudaErrorInvalidValue);
    EXPECT_SUCCESS(allow(163 << 10));
    block_of(stream, 163 << 10, cudaSuccess);
  });
}

TEST_CASE("arguments are copied at the launch") {
  check_program(in_mode("lazy"), [] {
    cudaStream_t stream = make_stream();
    float* x = device_floats();
    float *in = pinned_floats(1), *out = pinned_floats(0);
    upload(x, in, stream);
    scale(x, 1, stream);  // makes the kernel known
    float factor = 3;
    int count = kCount;
    void* arguments[] = {&x, &factor, &count};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(8);
    config.blockDim = dim3(128);
    config.stream = stream;
    EXPECT_SUCCESS(
        cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(&scale_kernel), arguments));
    download(out, x, stream);
    x = nullptr;
    factor = 100;
    EXPECT_SUCCESS(cudaStreamSynchronize(stream));
    EXPECT(all_equal(out, 3));
  });
}

TEST_CASE("kernels may use pinned memory") {
  check_program(in_mode("lazy"), [] {
    cudaStream_t stream = make_stream();
    float *in = pinned_floats(1), *out = pinned_floats(0);
    add_one(out, in, stream);
    EXPECT_SUCCESS(cudaStreamSynchronize(stream));
    EXPECT(all_equal(out, 2));
  });
}

TEST_CASE("copies: directions that are wrong") {
  const auto stopped = [](cudaMemcpyKind kind, const char* message) {
    check_stopped(run_in_child(in_mode("eager"),
                               [=] {
                                 float *x = device_floats(), *host = pinned_floats(0);
                                 cudaMemcpyAsync(x, host, kBytes, kind, make_stream());
                               }),
                  message);
  };
  stopped(cudaMemcpyDeviceToDevice, "cudaMemcpyAsync, source: ");
  stopped(cudaMemcpyDeviceToHost, "is device memory, the direction says host");
  check_program(in_mode("eager"), [] {
    cudaStream_t stream = make_stream();
    float *x = device_floats(), *y = device_floats();
    float *in = pinned_floats(7), *out = pinned_floats(0);
    for (const auto& [to, from] : {std::pair{x, in}, {y, x}, {out, y}})
      EXPECT_SUCCESS(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDefault, stream));
    EXPECT_SUCCESS(cudaStreamSynchronize(stream));
    EXPECT(all_equal(out, 7));
  });
}

TEST_CASE("a setting that cannot be is refused") {
  const auto count = [] {
    int devices = 0;
    cudaGetDeviceCount(&devices);
  };
  check_stopped(run_in_child({{"SWITCHYARD_CUDA_MODE", "later"}}, count), "none of eager, lazy");
  check_stopped(run_in_child({{"SWITCHYARD_CUDA_SEED", "1x"}}, count), "is no number");
}

}  // namespace cuda_emulator::test
