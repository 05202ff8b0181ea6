// Gradient norm, clipping and AdamW, on flat tensors.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/storage.h"
#include "backend/dispatch.h"

namespace switchyard {
namespace {

// Squares are summed in f64 within blocks of this many elements, and blocks in order: the sum is
// the same for every number of threads.
constexpr int64_t kNormBlock = 1 << 12;
// Updated weights are rounded to bf16 while they are still in the cache.
constexpr int64_t kRoundingBlock = 1 << 10;

double& scalar(Tensor scalars, StepScalar which) {
  return scalars.data<double>()[static_cast<int>(which)];
}

}  // namespace

void CpuOps::do_squared_norm_add(Queue, Tensor sum, Tensor x) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t n = x.numel(), num_blocks = div_up(n, kNormBlock);
    std::vector<double> block_sum(static_cast<size_t>(num_blocks));
    parallel_for(num_threads_, num_blocks, 4, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        double squares = 0;
        const Real* __restrict value = x.data<Real>();
        const int64_t last = std::min(n, (block + 1) * kNormBlock);
#pragma omp simd reduction(+ : squares)
        for (int64_t i = block * kNormBlock; i < last; ++i)
          squares += static_cast<double>(load(value[i])) * static_cast<double>(load(value[i]));
        block_sum[static_cast<size_t>(block)] = squares;
      }
    });
    *sum.data<double>() += std::accumulate(block_sum.begin(), block_sum.end(), 0.0);
  });
}

void CpuOps::do_clip_coefficient(Queue, Tensor scalars, Tensor norm_and_loss_P2, double max_norm) {
  const auto ranks = norm_and_loss_P2.span<double>();
  double squares = 0, losses = 0;
  for (size_t i = 0; i < ranks.size(); i += 2) {
    squares += ranks[i];
    losses += ranks[i + 1];
  }
  const double norm = std::sqrt(squares);
  const double loss = losses * scalar(scalars, StepScalar::kInverseTargetCount);
  scalar(scalars, StepScalar::kLoss) = loss;
  scalar(scalars, StepScalar::kGradNorm) = norm;
  scalar(scalars, StepScalar::kClipCoefficient) =
      max_norm == 0 ? 1.0 : std::min(1.0, max_norm / (norm + 1e-6));
  const bool is_applied =
      std::isfinite(norm) && std::isfinite(loss) && loss <= scalar(scalars, StepScalar::kLossLimit);
  scalar(scalars, StepScalar::kSkipStep) = is_applied ? 0.0 : 1.0;
}

void CpuOps::do_adamw(Queue, Tensor weight, Tensor rounded_weight, Tensor m, Tensor v,
                      Tensor gradient, Tensor scalars, double beta1, double beta2, double eps,
                      double weight_decay) {
  if (scalar(scalars, StepScalar::kSkipStep) != 0) return;
  with_accumulator(weight.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const double rate = scalar(scalars, StepScalar::kLearningRate);
    const auto clip = static_cast<Real>(scalar(scalars, StepScalar::kClipCoefficient));
    const auto b1 = static_cast<Real>(beta1), b2 = static_cast<Real>(beta2);
    const auto one_minus_b1 = static_cast<Real>(1 - beta1),
               one_minus_b2 = static_cast<Real>(1 - beta2);
    const auto step = static_cast<Real>(rate / scalar(scalars, StepScalar::kBiasCorrection1));
    const auto root_scale =
        static_cast<Real>(1 / std::sqrt(scalar(scalars, StepScalar::kBiasCorrection2)));
    const auto epsilon = static_cast<Real>(eps), decay = static_cast<Real>(rate * weight_decay);
    parallel_for(num_threads_, weight.numel(), kElementsPerTask, [&](int64_t begin, int64_t end) {
      Real* __restrict w = weight.data<Real>();
      Real* __restrict m1 = m.data<Real>();
      Real* __restrict m2 = v.data<Real>();
      const Real* __restrict grad = gradient.data<Real>();
      for (int64_t block = begin; block < end; block += kRoundingBlock) {
        const int64_t last = std::min(end, block + kRoundingBlock);
#pragma omp simd
        for (int64_t i = block; i < last; ++i) {
          const Real g = grad[i] * clip;
          m1[i] = b1 * m1[i] + one_minus_b1 * g;
          m2[i] = b2 * m2[i] + one_minus_b2 * g * g;
          w[i] -= step * m1[i] / (std::sqrt(m2[i]) * root_scale + epsilon) + decay * w[i];
        }
        if (rounded_weight.is_none()) continue;
        BFloat16* __restrict rounded = rounded_weight.data<BFloat16>();
        for (int64_t i = block; i < last; ++i) rounded[i] = BFloat16(static_cast<float>(w[i]));
      }
    });
  });
}

}  // namespace switchyard
