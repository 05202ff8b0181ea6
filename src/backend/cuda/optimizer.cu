// Gradient norm, clipping and AdamW, on flat tensors.
#include <cmath>

#include "backend/cuda/chunk.cuh"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/reduce.cuh"

namespace switchyard {
namespace {

using namespace cuda;

constexpr int kThreads = kFlatThreads;

// A grid over x: each thread sums its squares in f64, a block its threads. How many blocks there
// are depends on n alone, so that the sum does too. Reads n Real; writes a double for each block.
template <int kWidth, typename Real>
__global__ void __launch_bounds__(kThreads)
    squared_norm_kernel(double* __restrict__ of_block, const Real* __restrict__ x, int64_t n) {
  double squares = 0;
  for_each_chunk<kWidth>(n, [&](int64_t i, auto width) {
    constexpr int kCount = decltype(width)::value;
    const auto chunk = load_chunk<kCount>(x + i);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const auto value = static_cast<double>(chunk.value[j]);
      squares += value * value;
    }
  });
  squares = block_sum<kThreads>(squares);
  if (threadIdx.x == 0) of_block[blockIdx.x] = squares;
}

// One block: sum += all of of_block, by thread in turns, then by block_sum.
__global__ void __launch_bounds__(kThreads)
    add_blocks_kernel(double* __restrict__ sum, const double* __restrict__ of_block,
                      unsigned num_blocks) {
  double mine = 0;
  for (unsigned i = threadIdx.x; i < num_blocks; i += kThreads) mine += of_block[i];
  mine = block_sum<kThreads>(mine);
  if (threadIdx.x == 0) *sum += mine;
}

__device__ __forceinline__ double& scalar(double* scalars, StepScalar which) {
  return scalars[static_cast<int>(which)];
}
__device__ __forceinline__ double scalar(const double* scalars, StepScalar which) {
  return scalars[static_cast<int>(which)];
}

// One thread. Reads P pairs of sums, writes the four scalars.
__global__ void clip_coefficient_kernel(double* __restrict__ scalars,
                                        const double* __restrict__ norm_and_loss, int64_t P,
                                        double max_norm) {
  double squares = 0, losses = 0;
  for (int64_t p = 0; p < P; ++p) {
    squares += norm_and_loss[2 * p];
    losses += norm_and_loss[2 * p + 1];
  }
  const double norm = sqrt(squares);
  const double loss = losses * scalar(scalars, StepScalar::kInverseTargetCount);
  const double coefficient = max_norm / (norm + 1e-6);
  scalar(scalars, StepScalar::kLoss) = loss;
  scalar(scalars, StepScalar::kGradNorm) = norm;
  // A norm that is not a number clips nothing: the step is skipped.
  scalar(scalars, StepScalar::kClipCoefficient) =
      max_norm != 0 && coefficient < 1 ? coefficient : 1.0;
  const bool is_applied =
      std::isfinite(norm) && std::isfinite(loss) && loss <= scalar(scalars, StepScalar::kLossLimit);
  scalar(scalars, StepScalar::kSkipStep) = is_applied ? 0.0 : 1.0;
}

struct AdamConstants {
  double beta1, beta2, eps, weight_decay;
};

// A grid over the range; rounded_weight may be null. What is the same for all elements is computed
// by every thread, in f64, from the scalars. Reads 4 n Real; writes 3 n, and n BFloat16 of rounded
// weights. Nothing but one scalar when the step is skipped.
template <int kWidth, typename Real>
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(Real* __restrict__ weight, BFloat16* __restrict__ rounded_weight,
                 Real* __restrict__ m, Real* __restrict__ v, const Real* __restrict__ gradient,
                 const double* __restrict__ scalars, AdamConstants constants, int64_t n) {
  if (scalar(scalars, StepScalar::kSkipStep) != 0) return;
  const double rate = scalar(scalars, StepScalar::kLearningRate);
  const auto clip = static_cast<Real>(scalar(scalars, StepScalar::kClipCoefficient));
  const auto b1 = static_cast<Real>(constants.beta1), b2 = static_cast<Real>(constants.beta2);
  const auto one_minus_b1 = static_cast<Real>(1 - constants.beta1);
  const auto one_minus_b2 = static_cast<Real>(1 - constants.beta2);
  const auto step = static_cast<Real>(rate / scalar(scalars, StepScalar::kBiasCorrection1));
  const auto root_scale =
      static_cast<Real>(1 / sqrt(scalar(scalars, StepScalar::kBiasCorrection2)));
  const auto epsilon = static_cast<Real>(constants.eps);
  const auto decay = static_cast<Real>(rate * constants.weight_decay);
  for_each_chunk<kWidth>(n, [&](int64_t i, auto width) {
    constexpr int kCount = decltype(width)::value;
    auto w = load_chunk<kCount>(weight + i), m1 = load_chunk<kCount>(m + i),
         m2 = load_chunk<kCount>(v + i);
    const auto grad = load_chunk<kCount>(gradient + i);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const Real g = grad.value[j] * clip;
      m1.value[j] = b1 * m1.value[j] + one_minus_b1 * g;
      m2.value[j] = b2 * m2.value[j] + one_minus_b2 * g * g;
      w.value[j] -=
          step * m1.value[j] / (std::sqrt(m2.value[j]) * root_scale + epsilon) + decay * w.value[j];
    }
    store_chunk(weight + i, w);
    store_chunk(m + i, m1);
    store_chunk(v + i, m2);
    if constexpr (sizeof(Real) == sizeof(float))
      if (rounded_weight != nullptr) store_chunk(rounded_weight + i, w);
  });
}

}  // namespace

void CudaOps::do_squared_norm_add(Queue q, Tensor sum, Tensor x) {
  if (x.empty()) return;
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    with_width<Packet<Real>::kSize>(fits_packets(0, x.raw()), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const LaunchShape shape = flat_shape(x.numel(), kWidth);
      auto* of_block = reinterpret_cast<double*>(
          device_.scratch(q, int64_t{shape.grid.x} * static_cast<int64_t>(sizeof(double))));
      launch(device_.stream(q), squared_norm_kernel<kWidth, Real>, shape, of_block, x.data<Real>(),
             x.numel());
      launch(device_.stream(q), add_blocks_kernel, {1, kThreads}, sum.data<double>(), of_block,
             shape.grid.x);
    });
  });
}

void CudaOps::do_clip_coefficient(Queue q, Tensor scalars, Tensor norm_and_loss_P2,
                                  double max_norm) {
  launch(device_.stream(q), clip_coefficient_kernel, {1, 1}, scalars.data<double>(),
         norm_and_loss_P2.data<double>(), norm_and_loss_P2.dim(0), max_norm);
}

void CudaOps::do_adamw(Queue q, Tensor weight, Tensor rounded_weight, Tensor m, Tensor v,
                       Tensor gradient, Tensor scalars, double beta1, double beta2, double eps,
                       double weight_decay) {
  with_accumulator(weight.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    constexpr int kPackets =  // of the rounded weights too
        sizeof(Real) == sizeof(float) ? Packet<BFloat16>::kSize : Packet<Real>::kSize;
    BFloat16* rounded = rounded_weight.is_none() ? nullptr : rounded_weight.data<BFloat16>();
    const bool fits = fits_packets(0, weight.raw(), rounded, m.raw(), v.raw(), gradient.raw());
    with_width<kPackets>(fits, [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      launch(device_.stream(q), adamw_kernel<kWidth, Real>, flat_shape(weight.numel(), kWidth),
             weight.data<Real>(), rounded, m.data<Real>(), v.data<Real>(), gradient.data<Real>(),
             scalars.data<double>(), AdamConstants{beta1, beta2, eps, weight_decay},
             weight.numel());
    });
  });
}

}  // namespace switchyard
