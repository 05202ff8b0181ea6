// Softmax cross-entropy over a vocabulary in slices, with its gradient in place of the logits.
#include <cmath>

#include "backend/cuda/chunk.cuh"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/reduce.cuh"

namespace switchyard {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kBlocks = 4;  // that a multiprocessor has registers for

// One row of one slice, or, combined, of the whole vocabulary.
struct RowStatistics {
  double maximum;
  double total;         // of exp(logit - maximum)
  double target_logit;  // -infinity where the slice does not hold the target
};
static_assert(sizeof(RowStatistics) == 3 * sizeof(double));

// Of what one thread has seen (online softmax, arXiv 1805.02867). A logit that is not a number
// makes the total so.
template <typename Real>
struct Running {
  Real maximum = -static_cast<Real>(INFINITY), total = 0;

  template <int kWidth>
  __device__ __forceinline__ void add(const Chunk<Real, kWidth>& logits) {
    Real largest = maximum;
#pragma unroll
    for (int i = 0; i < kWidth; ++i)
      largest = logits.value[i] > largest ? logits.value[i] : largest;
    if (largest > maximum) {
      total *= std::exp(maximum - largest);
      maximum = largest;
    }
    // Nothing but -infinity so far: infinity - infinity would not be a number.
    const Real reference = maximum == -static_cast<Real>(INFINITY) ? Real{0} : maximum;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) total += std::exp(logits.value[i] - reference);
  }
};

// `total` of exponentials relative to `from`, relative to `to`.
__device__ __forceinline__ double rescaled(double total, double from, double to) {
  return total == 0 ? 0.0 : total * exp(from - to);
}

// One block for each row; a thread takes chunks of it, in turns. A thread's sum is of Real, sums of
// threads are f64. Reads T V Real and T targets, once; writes T rows of statistics.
template <int kWidth, typename Real>
__global__ void __launch_bounds__(kThreads, kBlocks)
    softmax_statistics_kernel(RowStatistics* __restrict__ statistics,
                              const Real* __restrict__ logits, const int32_t* __restrict__ target,
                              int64_t V, int64_t first_id) {
  const Real* row = logits + blockIdx.x * V;
  Running<Real> mine;
  for (int64_t v = threadIdx.x * kWidth; v < V; v += kThreads * kWidth)
    mine.add(load_chunk<kWidth>(row + v));
  const Real maximum = block_max<kThreads>(mine.maximum);
  const double total = block_sum<kThreads>(rescaled(static_cast<double>(mine.total),
                                                    static_cast<double>(mine.maximum),
                                                    static_cast<double>(maximum)));
  if (threadIdx.x != 0) return;
  const int64_t column = target[blockIdx.x] - first_id;
  statistics[blockIdx.x] = {
      static_cast<double>(maximum), total,
      column >= 0 && column < V ? static_cast<double>(row[column]) : -double{INFINITY}};
}

// Of row t over all P slices of T rows, in their order.
__device__ __forceinline__ RowStatistics combined(const RowStatistics* statistics, int64_t P,
                                                  int64_t T, int64_t t) {
  RowStatistics whole = statistics[t];
  for (int64_t p = 1; p < P; ++p) {
    const RowStatistics slice = statistics[p * T + t];
    const double maximum = slice.maximum > whole.maximum ? slice.maximum : whole.maximum;
    whole.total = rescaled(whole.total, whole.maximum, maximum) +
                  rescaled(slice.total, slice.maximum, maximum);
    whole.maximum = maximum;
    if (slice.target_logit != -double{INFINITY}) whole.target_logit = slice.target_logit;
  }
  return whole;
}

// One block; a thread takes rows in turns and sums them in f64, then block_sum. Reads num_rows
// targets and P num_rows rows of statistics.
constexpr int kLossThreads = 512;
__global__ void __launch_bounds__(kLossThreads)
    cross_entropy_loss_kernel(double* __restrict__ loss_sum,
                              const RowStatistics* __restrict__ statistics,
                              const int32_t* __restrict__ target, int64_t P, int64_t T,
                              int64_t first_row, int64_t num_rows) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < num_rows; i += kLossThreads) {
    const int64_t t = first_row + i;
    if (target[t] == kIgnoredTarget) continue;
    const RowStatistics whole = combined(statistics, P, T, t);
    sum += whole.maximum - whole.target_logit + log(whole.total);
  }
  sum = block_sum<kLossThreads>(sum);
  if (threadIdx.x == 0) *loss_sum += sum;
}

// One block for each row, of which one thread combines the statistics; then a thread takes chunks
// of the row, in turns. Reads T V Real (not rows that are ignored), T targets and P T rows of
// statistics; writes T V Real.
template <int kWidth, typename Real>
__global__ void __launch_bounds__(kThreads, kBlocks)
    cross_entropy_gradient_kernel(Real* __restrict__ logits,
                                  const RowStatistics* __restrict__ statistics,
                                  const int32_t* __restrict__ target, int64_t P, int64_t V,
                                  int64_t first_id, const double* __restrict__ scalars) {
  SHARED_ARRAY(RowStatistics, whole, 1);
  Real* row = logits + blockIdx.x * V;
  const int32_t label = target[blockIdx.x];
  if (label == kIgnoredTarget) {
    for (int64_t v = threadIdx.x * kWidth; v < V; v += kThreads * kWidth)
      store_chunk(row + v, Chunk<Real, kWidth>{});
    return;
  }
  if (threadIdx.x == 0) whole[0] = combined(statistics, P, gridDim.x, blockIdx.x);
  __syncthreads();
  const auto scale = static_cast<Real>(scalars[static_cast<int>(StepScalar::kInverseTargetCount)]);
  const auto maximum = static_cast<Real>(whole[0].maximum);
  const Real factor = scale / static_cast<Real>(whole[0].total);
  const int64_t column = label - first_id;
  for (int64_t v = threadIdx.x * kWidth; v < V; v += kThreads * kWidth) {
    auto chunk = load_chunk<kWidth>(row + v);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      chunk.value[i] = std::exp(chunk.value[i] - maximum) * factor;
      if (v + i == column) chunk.value[i] -= scale;
    }
    store_chunk(row + v, chunk);
  }
}

RowStatistics* rows_of(Tensor statistics) {
  return reinterpret_cast<RowStatistics*>(statistics.data<double>());
}

}  // namespace

// A target outside the vocabulary cannot be reported from here. No slice holds it: its loss is
// infinite, and the step is skipped.
void CudaOps::do_softmax_statistics(Queue q, Tensor statistics, Tensor logits, Tensor target,
                                    int64_t first_id, int64_t) {
  with_accumulator(logits.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t V = logits.dim(1);
    const bool fits = fits_packets(V * static_cast<int64_t>(sizeof(Real)), logits.raw());
    with_width<Packet<Real>::kSize>(fits, [&](auto width) {
      launch(device_.stream(q), softmax_statistics_kernel<decltype(width)::value, Real>,
             {static_cast<unsigned>(logits.dim(0)), kThreads}, rows_of(statistics),
             logits.data<Real>(), target.data<int32_t>(), V, first_id);
    });
  });
}

void CudaOps::do_cross_entropy_loss(Queue q, Tensor loss_sum, Tensor statistics, Tensor target,
                                    int64_t first_row, int64_t num_rows) {
  if (num_rows == 0) return;
  launch(device_.stream(q), cross_entropy_loss_kernel, {1, kLossThreads}, loss_sum.data<double>(),
         rows_of(statistics), target.data<int32_t>(), statistics.dim(0), statistics.dim(1),
         first_row, num_rows);
}

void CudaOps::do_cross_entropy_gradient(Queue q, Tensor logits, Tensor statistics, Tensor target,
                                        int64_t first_id, Tensor scalars) {
  with_accumulator(logits.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t V = logits.dim(1);
    const bool fits = fits_packets(V * static_cast<int64_t>(sizeof(Real)), logits.raw());
    with_width<Packet<Real>::kSize>(fits, [&](auto width) {
      launch(device_.stream(q), cross_entropy_gradient_kernel<decltype(width)::value, Real>,
             {static_cast<unsigned>(logits.dim(0)), kThreads}, logits.data<Real>(),
             rows_of(statistics), target.data<int32_t>(), statistics.dim(0), V, first_id,
             scalars.data<double>());
    });
  });
}

}  // namespace switchyard
