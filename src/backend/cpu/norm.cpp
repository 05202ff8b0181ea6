// RMSNorm with the residual sum before it, and its gradient.
#include <cmath>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/dispatch.h"
#include "backend/cpu/parallel.h"

namespace switchyard {
namespace {

template <typename Real>
void forward_row(Real* __restrict y, Real* inv_rms, const Real* __restrict x,
                 const Real* __restrict weight, int64_t D, double eps) {
  Real squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t d = 0; d < D; ++d) squares += x[d] * x[d];
  const auto r = static_cast<Real>(
      1.0 / std::sqrt(static_cast<double>(squares) / static_cast<double>(D) + eps));
#pragma omp simd
  for (int64_t d = 0; d < D; ++d) y[d] = x[d] * r * weight[d];
  *inv_rms = r;
}

// With n = x r: dx = r (g - n mean(g n)) where g = dy * weight.
template <typename Real>
void backward_row(Real* __restrict dx, const Real* __restrict dy, const Real* __restrict dresidual,
                  const Real* __restrict x, Real r, const Real* __restrict weight, int64_t D) {
  Real product = 0;
#pragma omp simd reduction(+ : product)
  for (int64_t d = 0; d < D; ++d) product += dy[d] * weight[d] * x[d];
  const Real mean = product * r * r / static_cast<Real>(D);
#pragma omp simd
  for (int64_t d = 0; d < D; ++d) dx[d] = r * (dy[d] * weight[d] - x[d] * mean);
  if (dresidual == nullptr) return;
#pragma omp simd
  for (int64_t d = 0; d < D; ++d) dx[d] += dresidual[d];
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
          for (int64_t d = 0; d < D; ++d) total[d] = row[d] + other[d];
          row = total;
        }
        forward_row(y.data<Real>() + t * D, inv_rms.data<Real>() + t, row, weight.data<Real>(), D,
                    eps);
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
                     x.data<Real>() + t * D, inv_rms.data<Real>()[t], weight.data<Real>(), D);
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
      Real* __restrict total = dweight.data<Real>();
      for (int64_t t = 0; t < T; ++t) {
        const Real* __restrict gradient = dy.data<Real>() + t * D;
        const Real* __restrict input = x.data<Real>() + t * D;
        const Real r = inv_rms.data<Real>()[t];
#pragma omp simd
        for (int64_t d = begin; d < end; ++d) total[d] += gradient[d] * input[d] * r;
      }
    });
  });
}

}  // namespace switchyard
