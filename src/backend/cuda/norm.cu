// RMSNorm with the residual sum before it, and its gradient.
#include <cmath>

#include "backend/cuda/chunk.cuh"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/reduce.cuh"
#include "core/math.h"

namespace switchyard {
namespace {

using namespace cuda;

// Of the kernels with a block for each row: threads, and blocks that a multiprocessor has registers
// for.
constexpr int kThreads = 128, kBlocks = 4;

// One block for each row; a thread takes chunks of it, in turns. The row waits in shared memory, as
// it is stored, for its sum of squares: each thread comes back to its own chunks, with no barrier.
// Squares are summed in Compute<Real>, by thread, then by block_sum; the root is f64.
// Reads T D Real of x, and of delta if there is one, and D of the weight for each row (from the
// cache); writes T D of y, of the sum with delta, and T of inv_rms.
template <int kWidth, typename Real>
__global__ void __launch_bounds__(kThreads, kBlocks)
    rmsnorm_forward_kernel(Real* __restrict__ y, Real* __restrict__ sum,
                           Compute<Real>* __restrict__ inv_rms, const Real* __restrict__ x,
                           const Real* __restrict__ delta, const Real* __restrict__ weight,
                           int64_t D, double eps) {
  DYNAMIC_SHARED(shared);
  Real* row = reinterpret_cast<Real*>(shared);
  const int64_t begin = blockIdx.x * D, first = threadIdx.x * kWidth, stride = kThreads * kWidth;
  Compute<Real> squares = 0;
  for (int64_t d = first; d < D; d += stride) {
    auto value = load_chunk<kWidth>(x + begin + d);
    if (delta != nullptr) {
      const auto other = load_chunk<kWidth>(delta + begin + d);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) value.value[i] += other.value[i];
      store_chunk(sum + begin + d, value);
    }
    store_chunk(row + d, value);
    const auto stored = load_chunk<kWidth>(row + d);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) squares += stored.value[i] * stored.value[i];
  }
  squares = block_sum<kThreads>(squares);
  const auto r = static_cast<Compute<Real>>(
      1.0 / sqrt(static_cast<double>(squares) / static_cast<double>(D) + eps));
  if (threadIdx.x == 0) inv_rms[blockIdx.x] = r;
  for (int64_t d = first; d < D; d += stride) {
    auto value = load_chunk<kWidth>(row + d);
    const auto scale = load_chunk<kWidth>(weight + d);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) value.value[i] = value.value[i] * r * scale.value[i];
    store_chunk(y + begin + d, value);
  }
}

// With n = x r: dx = r (g - n mean(g n)) where g = dy * weight; plus the residual's gradient, all
// rounded once. Blocks, threads and sums as in the forward; the rows of x and dy wait in shared
// memory. Reads T D Real of x, of dy, and of dresidual if there is one; writes T D of dx.
template <int kWidth, typename Real>
__global__ void __launch_bounds__(kThreads, kBlocks)
    rmsnorm_backward_kernel(Real* __restrict__ dx, const Real* __restrict__ dy,
                            const Real* __restrict__ dresidual, const Real* __restrict__ x,
                            const Compute<Real>* __restrict__ inv_rms,
                            const Real* __restrict__ weight, int64_t D) {
  DYNAMIC_SHARED(shared);
  Real* x_row = reinterpret_cast<Real*>(shared);
  Real* dy_row = x_row + D;
  const int64_t begin = blockIdx.x * D, first = threadIdx.x * kWidth, stride = kThreads * kWidth;
  Compute<Real> product = 0;
  for (int64_t d = first; d < D; d += stride) {
    const auto input = load_chunk<kWidth>(x + begin + d);
    const auto gradient = load_chunk<kWidth>(dy + begin + d);
    const auto scale = load_chunk<kWidth>(weight + d);
    store_chunk(x_row + d, input);
    store_chunk(dy_row + d, gradient);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) product += gradient.value[i] * scale.value[i] * input.value[i];
  }
  product = block_sum<kThreads>(product);
  const Compute<Real> r = inv_rms[blockIdx.x];
  const Compute<Real> mean = product * r * r / static_cast<Compute<Real>>(D);
  for (int64_t d = first; d < D; d += stride) {
    const auto input = load_chunk<kWidth>(x_row + d);
    auto gradient = load_chunk<kWidth>(dy_row + d);
    const auto scale = load_chunk<kWidth>(weight + d);
#pragma unroll
    for (int i = 0; i < kWidth; ++i)
      gradient.value[i] = r * (gradient.value[i] * scale.value[i] - input.value[i] * mean);
    if (dresidual != nullptr) {
      const auto residual = load_chunk<kWidth>(dresidual + begin + d);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) gradient.value[i] += residual.value[i];
    }
    store_chunk(dx + begin + d, gradient);
  }
}

// ---- Sums over rows: first of kRowsPerPart rows each, then of these parts ----
// A block owns kWarpSize * kWidth columns; its warps take rows in turns, and their sums are added
// in the order of the warps. The order depends on the sizes alone.
constexpr int kSumWarps = 8, kSumThreads = kSumWarps * kWarpSize, kSumBlocks = 4;
constexpr int64_t kRowsPerPart = 64;

// add_row(total, row, column) adds what `row`, of [begin, end), holds in columns [column, column +
// kWidth); finish(column, sum) gets each column's sum.
template <int kWidth, typename Sum, typename AddRow, typename Finish>
__device__ __forceinline__ void sum_columns(int64_t first_column, int64_t D, int64_t begin,
                                            int64_t end, const AddRow& add_row,
                                            const Finish& finish) {
  constexpr int kColumns = kWarpSize * kWidth;
  SHARED_ARRAY(Sum, of_warp, kSumWarps * kColumns);
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int place = static_cast<int>(threadIdx.x) % kWarpSize * kWidth;
  Chunk<Sum, kWidth> total{};
  if (first_column + place < D)
    for (int64_t row = begin + warp; row < end; row += kSumWarps)
      add_row(total, row, first_column + place);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) of_warp[warp * kColumns + place + i] = total.value[i];
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < kColumns; c += kSumThreads) {
    if (first_column + c >= D) break;
    Sum sum = 0;
#pragma unroll
    for (int w = 0; w < kSumWarps; ++w) sum += of_warp[w * kColumns + c];
    finish(first_column + c, sum);
  }
}

// part[p, d] = sum of dy x inv_rms over the rows of part p. Block p * column_blocks + c does
// columns c of part p. Reads T D Real of dy and of x, T of inv_rms for each column block; writes T
// / kRowsPerPart rows of D.
template <int kWidth, typename Real>
__global__ void __launch_bounds__(kSumThreads, kSumBlocks)
    rmsnorm_weight_parts_kernel(Compute<Real>* __restrict__ part, const Real* __restrict__ dy,
                                const Real* __restrict__ x,
                                const Compute<Real>* __restrict__ inv_rms, int64_t T, int64_t D,
                                unsigned column_blocks) {
  const int64_t p = blockIdx.x / column_blocks;
  const int64_t first_column = int64_t{blockIdx.x % column_blocks} * kWarpSize * kWidth;
  const int64_t end = p * kRowsPerPart + kRowsPerPart;
  sum_columns<kWidth, Compute<Real>>(
      first_column, D, p * kRowsPerPart, end < T ? end : T,
      [&](auto& total, int64_t t, int64_t d) {
        const auto gradient = load_chunk<kWidth>(dy + t * D + d);
        const auto input = load_chunk<kWidth>(x + t * D + d);
        const Compute<Real> r = inv_rms[t];
#pragma unroll
        for (int i = 0; i < kWidth; ++i) total.value[i] += gradient.value[i] * input.value[i] * r;
      },
      [&](int64_t d, Compute<Real> sum) { part[p * D + d] = sum; });
}

// dweight[d] += the sum of its parts. Reads them, reads and writes D of dweight.
template <typename Sum>
__global__ void __launch_bounds__(kSumThreads, kSumBlocks)
    rmsnorm_weight_join_kernel(Sum* __restrict__ dweight, const Sum* __restrict__ part,
                               int64_t num_parts, int64_t D) {
  sum_columns<1, Sum>(
      int64_t{blockIdx.x} * kWarpSize, D, 0, num_parts,
      [&](auto& total, int64_t p, int64_t d) { total.value[0] += part[p * D + d]; },
      [&](int64_t d, Sum sum) { dweight[d] += sum; });
}

}  // namespace

void CudaOps::do_rmsnorm_forward(Queue q, Tensor y, Tensor sum, Tensor inv_rms, Tensor x,
                                 Tensor delta, Tensor weight, double eps) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t D = x.dim(1), row_bytes = D * static_cast<int64_t>(sizeof(Real));
    const bool fits =
        fits_packets(row_bytes, y.raw(), sum.raw(), x.raw(), delta.raw(), weight.raw());
    with_width<Packet<Real>::kSize>(fits, [&](auto width) {
      launch(device_.stream(q), rmsnorm_forward_kernel<decltype(width)::value, Real>,
             {static_cast<unsigned>(x.dim(0)), kThreads, static_cast<size_t>(row_bytes)},
             y.data<Real>(), data_or_null<Real>(sum), inv_rms.data<Compute<Real>>(), x.data<Real>(),
             data_or_null<Real>(delta), weight.data<Real>(), D, eps);
    });
  });
}

void CudaOps::do_rmsnorm_backward(Queue q, Tensor dx, Tensor dy, Tensor dresidual, Tensor x,
                                  Tensor inv_rms, Tensor weight) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t D = x.dim(1), row_bytes = D * static_cast<int64_t>(sizeof(Real));
    const bool fits =
        fits_packets(row_bytes, dx.raw(), dy.raw(), dresidual.raw(), x.raw(), weight.raw());
    with_width<Packet<Real>::kSize>(fits, [&](auto width) {
      launch(device_.stream(q), rmsnorm_backward_kernel<decltype(width)::value, Real>,
             {static_cast<unsigned>(x.dim(0)), kThreads, static_cast<size_t>(2 * row_bytes)},
             dx.data<Real>(), dy.data<Real>(), data_or_null<Real>(dresidual), x.data<Real>(),
             inv_rms.data<Compute<Real>>(), weight.data<Real>(), D);
    });
  });
}

void CudaOps::do_rmsnorm_weight_backward(Queue q, Tensor dweight, Tensor dy, Tensor x,
                                         Tensor inv_rms) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    using Sum = Compute<Real>;
    const int64_t T = x.dim(0), D = x.dim(1), num_parts = div_up(T, kRowsPerPart);
    auto* part = reinterpret_cast<Sum*>(
        device_.scratch(q, num_parts * D * static_cast<int64_t>(sizeof(Sum))));
    const bool fits = fits_packets(D * static_cast<int64_t>(sizeof(Real)), dy.raw(), x.raw());
    with_width<Packet<Real>::kSize>(fits, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const unsigned column_blocks = blocks_for(D, kWarpSize * kWidth);
      launch(device_.stream(q), rmsnorm_weight_parts_kernel<kWidth, Real>,
             {static_cast<unsigned>(num_parts) * column_blocks, kSumThreads}, part, dy.data<Real>(),
             x.data<Real>(), inv_rms.data<Sum>(), T, D, column_blocks);
    });
    if (num_parts > 0)
      launch(device_.stream(q), rmsnorm_weight_join_kernel<Sum>,
             {blocks_for(D, kWarpSize), kSumThreads}, dweight.data<Sum>(), part, num_parts, D);
  });
}

}  // namespace switchyard
