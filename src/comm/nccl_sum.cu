#include "backend/cuda/launch.cuh"
#include "backend/cuda/storage.cuh"
#include "comm/nccl_sum.h"
#include "core/math.h"

namespace switchyard {
namespace {

using namespace cuda;

constexpr int kThreads = 256;

// As storage.cuh, for integers too.
template <typename T>
__device__ __forceinline__ T value_of(const T& x) {
  return x;
}
__device__ __forceinline__ float value_of(const BFloat16& x) { return load(x); }
template <typename T>
__device__ __forceinline__ void put(T& y, T x) {
  y = x;
}
__device__ __forceinline__ void put(BFloat16& y, float x) { store(y, x); }

// out = the sum over ranks r of part_of(r), added in this order.
//
// Every thread strides over packets of 16 bytes (where `kPackets`), and over the elements that are
// left: one load for each rank, all but the first added to a sum in a register (of f32 for bf16,
// rounded once), one store. Reads size x n elements, writes n.
template <typename T, bool kPackets>
__global__ void sum_ranks_kernel(T* out, const T* mine, const std::byte* received, int64_t stride,
                                 int rank, int size, int64_t n) {
  const auto part_of = [&](int r) {
    return r == rank ? mine : reinterpret_cast<const T*>(received + r * stride);
  };
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  int64_t done = 0;
  if constexpr (kPackets) {
    constexpr int kSize = Packet<T>::kSize;
    for (int64_t i = first; i < n / kSize; i += step) {
      Packet<T> sum = load_packet(part_of(0) + i * kSize);
      for (int r = 1; r < size; ++r) {
        const Packet<T> term = load_packet(part_of(r) + i * kSize);
#pragma unroll
        for (int k = 0; k < kSize; ++k) sum.value[k] += term.value[k];
      }
      store_packet(out + i * kSize, sum);
    }
    done = n / kSize * kSize;
  }
  for (int64_t i = done + first; i < n; i += step) {
    auto sum = value_of(part_of(0)[i]);
    for (int r = 1; r < size; ++r) sum += value_of(part_of(r)[i]);
    put(out[i], sum);
  }
}

template <typename T, bool kPackets>
void launch_sum(cudaStream_t stream, Tensor out, const RankContributions& of) {
  const int64_t n = out.numel(), items = kPackets ? div_up(out.bytes(), int64_t{16}) : n;
  launch(stream, sum_ranks_kernel<T, kPackets>, {striding_blocks(items, kThreads), kThreads},
         out.data<T>(), of.mine.data<T>(), of.received, of.stride_bytes, of.rank, of.size, n);
}

template <typename T>
void sum_reals(cudaStream_t stream, Tensor out, const RankContributions& of) {
  if (fits_packets(of.stride_bytes, out.raw(), of.mine.raw(), of.received))
    launch_sum<T, true>(stream, out, of);
  else
    launch_sum<T, false>(stream, out, of);
}

}  // namespace

void sum_ranks(cudaStream_t stream, Tensor out, const RankContributions& contributions) {
  switch (out.dtype()) {
    case DType::kF32:
      return sum_reals<float>(stream, out, contributions);
    case DType::kF64:
      return sum_reals<double>(stream, out, contributions);
    case DType::kBF16:
      return sum_reals<BFloat16>(stream, out, contributions);
    case DType::kI32:
      return launch_sum<int32_t, false>(stream, out, contributions);
    case DType::kI64:
      return launch_sum<int64_t, false>(stream, out, contributions);
    case DType::kU8:
      SY_CHECK(false, "bytes are not numbers: they cannot be summed");
  }
}

}  // namespace switchyard
