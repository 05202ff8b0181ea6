// RMSNorm with the residual sum before it, and its gradient.
#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/storage.h"
#include "backend/dispatch.h"

namespace switchyard {
namespace {

template <typename Real>
void forward_row(Real* __restrict y, Compute<Real>* inv_rms, const Real* __restrict x,
                 const Real* __restrict weight, int64_t D, double eps) {
  Compute<Real> squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t d = 0; d < D; ++d) squares += load(x[d]) * load(x[d]);
  const auto r = static_cast<Compute<Real>>(
      1.0 / std::sqrt(static_cast<double>(squares) / static_cast<double>(D) + eps));
#pragma omp simd
  for (int64_t d = 0; d < D; ++d) store(y[d], load(x[d]) * r * load(weight[d]));
  *inv_rms = r;
}

// With n = x r: dx = r (g - n mean(g n)) where g = dy * weight. The residual's gradient is added in
// a loop of its own, over the same few values: one rounding of bf16, the same bits in f32.
template <typename Real>
void backward_row(Real* __restrict dx, const Real* __restrict dy, const Real* __restrict dresidual,
                  const Real* __restrict x, Compute<Real> r, const Real* __restrict weight,
                  int64_t D) {
  Compute<Real> product = 0;
#pragma omp simd reduction(+ : product)
  for (int64_t d = 0; d < D; ++d) product += load(dy[d]) * load(weight[d]) * load(x[d]);
  const Compute<Real> mean = product * r * r / static_cast<Compute<Real>>(D);
  const auto through_norm = [&](int64_t d) {
    return r * (load(dy[d]) * load(weight[d]) - load(x[d]) * mean);
  };
  if (dresidual == nullptr) {
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) store(dx[d], through_norm(d));
    return;
  }
  constexpr int64_t kBlock = 256;
  Compute<Real> block[kBlock];
  for (int64_t begin = 0; begin < D; begin += kBlock) {
    const int64_t end = std::min(D, begin + kBlock);
#pragma omp simd
    for (int64_t d = begin; d < end; ++d) block[d - begin] = through_norm(d);
#pragma omp simd
    for (int64_t d = begin; d < end; ++d) store(dx[d], block[d - begin] + load(dresidual[d]));
  }
}

}  // namespace

void CpuOps::do_rmsnorm_forward(Queue, Tensor y, Tensor sum, Tensor inv_rms, Tensor x, Tensor delta,
                                Tensor weight, double eps) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t D = x.dim(1);
    parallel_for(num_threads_, x.dim(0), rows_per_task(D), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const Real* row = x.data<Real>() + t * D;
        if (!delta.is_none()) {
          Real* __restrict total = sum.data<Real>() + t * D;
          const Real* __restrict other = delta.data<Real>() + t * D;
#pragma omp simd
          for (int64_t d = 0; d < D; ++d) store(total[d], load(row[d]) + load(other[d]));
          row = total;
        }
        forward_row(y.data<Real>() + t * D, inv_rms.data<Compute<Real>>() + t, row,
                    weight.data<Real>(), D, eps);
      }
    });
  });
}

void CpuOps::do_rmsnorm_backward(Queue, Tensor dx, Tensor dy, Tensor dresidual, Tensor x,
                                 Tensor inv_rms, Tensor weight) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = x.dim(0), D = x.dim(1);
    parallel_for(num_threads_, T, rows_per_task(D), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        backward_row(dx.data<Real>() + t * D, dy.data<Real>() + t * D,
                     dresidual.is_none() ? nullptr : dresidual.data<Real>() + t * D,
                     x.data<Real>() + t * D, inv_rms.data<Compute<Real>>()[t], weight.data<Real>(),
                     D);
    });
  });
}

// Stripes of columns: each sum over tokens runs in one thread, in order.
void CpuOps::do_rmsnorm_weight_backward(Queue, Tensor dweight, Tensor dy, Tensor x,
                                        Tensor inv_rms) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = x.dim(0), D = x.dim(1);
    parallel_for(num_threads_, D, rows_per_task(T), [&](int64_t begin, int64_t end) {
      Compute<Real>* __restrict total = dweight.data<Compute<Real>>();
      for (int64_t t = 0; t < T; ++t) {
        const Real* __restrict gradient = dy.data<Real>() + t * D;
        const Real* __restrict input = x.data<Real>() + t * D;
        const Compute<Real> r = inv_rms.data<Compute<Real>>()[t];
#pragma omp simd
        for (int64_t d = begin; d < end; ++d) total[d] += load(gradient[d]) * load(input[d]) * r;
      }
    });
  });
}

}  // namespace switchyard
