// Fills, copies, sums and random initial values.
#include <cmath>
#include <cstring>
#include <numbers>

#include "backend/cuda/chunk.cuh"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/trigonometry.cuh"
#include "core/random.h"

namespace switchyard {
namespace {

using namespace cuda;

// x[i] = value, whatever the bits mean; `packet` holds them as often as they fit. Writes n words.
template <int kWidth, typename Word>
__global__ void __launch_bounds__(kFlatThreads)
    fill_kernel(Word* __restrict__ x, Word value, uint4 packet, int64_t n) {
  for_each_chunk<kWidth>(n, [&](int64_t i, auto width) {
    if constexpr (decltype(width)::value == 1)
      x[i] = value;
    else
      *reinterpret_cast<uint4*>(x + i) = packet;
  });
}

template <typename Word>
void fill_words(cudaStream_t stream, Tensor x, Word value) {
  constexpr int kPerPacket = 16 / static_cast<int>(sizeof(Word));
  uint4 packet;
  for (int i = 0; i < kPerPacket; ++i)
    std::memcpy(reinterpret_cast<std::byte*>(&packet) + static_cast<size_t>(i) * sizeof(Word),
                &value, sizeof(Word));
  with_width<kPerPacket>(fits_packets(0, x.raw()), [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    launch(stream, fill_kernel<kWidth, Word>, flat_shape(x.numel(), kWidth),
           static_cast<Word*>(x.raw()), value, packet, x.numel());
  });
}

// y[i] = x[i]. Reads n From, writes n To.
template <int kWidth, typename To, typename From>
__global__ void __launch_bounds__(kFlatThreads)
    convert_kernel(To* __restrict__ y, const From* __restrict__ x, int64_t n) {
  for_each_chunk<kWidth>(n, [&](int64_t i, auto width) {
    constexpr int kCount = decltype(width)::value;
    const auto from = load_chunk<kCount>(x + i);
    Chunk<Compute<To>, kCount> to;
#pragma unroll
    for (int j = 0; j < kCount; ++j) to.value[j] = static_cast<Compute<To>>(from.value[j]);
    store_chunk(y + i, to);
  });
}

// y[i] = a[i] + b[i]; y may be a or b. Reads 2 n Real, writes n.
template <int kWidth, typename Real>
__global__ void __launch_bounds__(kFlatThreads)
    add_kernel(Real* y, const Real* a, const Real* b, int64_t n) {
  for_each_chunk<kWidth>(n, [&](int64_t i, auto width) {
    constexpr int kCount = decltype(width)::value;
    auto sum = load_chunk<kCount>(a + i);
    const auto other = load_chunk<kCount>(b + i);
#pragma unroll
    for (int j = 0; j < kCount; ++j) sum.value[j] += other.value[j];
    store_chunk(y + i, sum);
  });
}

// As core/random.cpp, from the same words; the logarithm and the cosine may differ in the last bit
// of f64.
__device__ double normal_number(uint64_t key, uint64_t index) {
  const auto words = philox(key, index);
  const double u = 1.0 - unit_interval(words[0], words[1]);
  const double angle = 2.0 * std::numbers::pi * unit_interval(words[2], words[3]);
  return sqrt(-2.0 * log(u)) * sine_cosine(angle).cosine;
}

// One thread for each element of x (N, M), in turns. Writes N M Real.
template <typename Real>
__global__ void __launch_bounds__(kFlatThreads)
    init_normal_kernel(Real* __restrict__ x, int64_t n, int64_t M, double std, uint64_t key,
                       int64_t first_index, int64_t row_stride) {
  for_each_chunk<1>(n, [&](int64_t i, auto) {
    const int64_t index = first_index + i / M * row_stride + i % M;
    const double value = std * normal_number(key, static_cast<uint64_t>(index));
    store(x[i], static_cast<Compute<Real>>(value));
  });
}

}  // namespace

void CudaOps::do_fill(Queue q, Tensor x, double value) {
  const cudaStream_t stream = device_.stream(q);
  switch (x.dtype()) {
    case DType::kF32:
      return fill_words(stream, x, static_cast<float>(value));
    case DType::kF64:
      return fill_words(stream, x, value);
    case DType::kBF16:
      return fill_words(stream, x, BFloat16(static_cast<float>(value)).bits);
    case DType::kI32:
      return fill_words(stream, x, static_cast<int32_t>(value));
    case DType::kI64:
      return fill_words(stream, x, static_cast<int64_t>(value));
    case DType::kU8:
      return fill_words(stream, x, static_cast<uint8_t>(value));
  }
}

void CudaOps::do_copy(Queue q, Tensor y, Tensor x) {
  if (x.raw() == y.raw() || x.empty()) return;
  CUDA_CHECK(cudaMemcpyAsync(y.raw(), x.raw(), static_cast<size_t>(x.bytes()),
                             cudaMemcpyDeviceToDevice, device_.stream(q)));
}

void CudaOps::do_convert(Queue q, Tensor y, Tensor x) {
  with_real(y.dtype(), [&](auto to) {
    with_real(x.dtype(), [&](auto from) {
      using To = decltype(to);
      using From = decltype(from);
      constexpr int kPackets = std::max(Packet<To>::kSize, Packet<From>::kSize);
      with_width<kPackets>(fits_packets(0, y.raw(), x.raw()), [&](auto width) {
        constexpr int kWidth = decltype(width)::value;
        launch(device_.stream(q), convert_kernel<kWidth, To, From>, flat_shape(x.numel(), kWidth),
               y.data<To>(), x.data<From>(), x.numel());
      });
    });
  });
}

void CudaOps::do_add(Queue q, Tensor y, Tensor a, Tensor b) {
  with_real(y.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    with_width<Packet<Real>::kSize>(fits_packets(0, y.raw(), a.raw(), b.raw()), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      launch(device_.stream(q), add_kernel<kWidth, Real>, flat_shape(y.numel(), kWidth),
             y.data<Real>(), a.data<Real>(), b.data<Real>(), y.numel());
    });
  });
}

void CudaOps::do_init_normal(Queue q, Tensor x, double std, uint64_t key, int64_t first_index,
                             int64_t row_stride) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    launch(device_.stream(q), init_normal_kernel<Real>, flat_shape(x.numel(), 1), x.data<Real>(),
           x.numel(), x.dim(1), std, key, first_index, row_stride);
  });
}

}  // namespace switchyard
