// Digests of tensors for checkpoints.
#include "backend/cuda/chunk.cuh"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/reduce.cuh"
#include "core/digest.h"

namespace switchyard {
namespace {

using namespace cuda;

constexpr int kBlocks = 4;  // that a multiprocessor has registers for

// The 64 bits of which word i of a packet is a part, and then the word.
template <typename Word>
__device__ __forceinline__ Word word_of(const uint4& packet, int i) {
  constexpr int kBits = 8 * static_cast<int>(sizeof(Word)), kPerHalf = 64 / kBits;
  const uint64_t low = packet.x | uint64_t{packet.y} << 32,
                 high = packet.z | uint64_t{packet.w} << 32;
  return static_cast<Word>((i < kPerHalf ? low : high) >> (i % kPerHalf * kBits));
}

// A grid over x (N, M), of which a chunk lies in one row; blocks add their sums to `sum`: integers,
// which no order changes. Reads N M Word; adds one integer for each block.
template <int kWidth, typename Word>
__global__ void __launch_bounds__(kFlatThreads, kBlocks)
    digest_kernel(unsigned long long* __restrict__ sum, const Word* __restrict__ x, int64_t n,
                  int64_t M, int64_t first_index, int64_t row_stride) {
  uint64_t mine = 0;
  for_each_chunk<kWidth>(n, [&](int64_t i, auto width) {
    const int64_t row = M == n ? 0 : i / M;
    const auto index = static_cast<uint64_t>(first_index + row * row_stride + i - row * M);
    if constexpr (decltype(width)::value == 1) {
      mine += digest_term(index, x[i]);
    } else {
      const uint4 packet = *reinterpret_cast<const uint4*>(x + i);
#pragma unroll
      for (int j = 0; j < kWidth; ++j)
        mine += digest_term(index + static_cast<uint64_t>(j), word_of<Word>(packet, j));
    }
  });
  mine = block_sum<kFlatThreads>(mine);
  if (threadIdx.x == 0) atomicAdd(sum, static_cast<unsigned long long>(mine));
}

}  // namespace

void CudaOps::do_digest_add(Queue q, Tensor sum, Tensor x, int64_t first_index,
                            int64_t row_stride) {
  const int64_t M = x.dim(1);
  with_word(size_in_bytes(x.dtype()), [&](auto zero) {
    using Word = decltype(zero);
    constexpr int kPerPacket = 16 / static_cast<int>(sizeof(Word));
    const bool fits = fits_packets(0, x.raw()) && (x.dim(0) <= 1 || M % kPerPacket == 0);
    with_width<kPerPacket>(fits, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      launch(device_.stream(q), digest_kernel<kWidth, Word>, flat_shape(x.numel(), kWidth),
             reinterpret_cast<unsigned long long*>(sum.data<int64_t>()),
             static_cast<const Word*>(x.raw()), x.numel(), M, first_index, row_stride);
    });
  });
}

}  // namespace switchyard
