// Softmax cross-entropy, with its gradient in place of the logits.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/dispatch.h"
#include "backend/cpu/exp.h"
#include "backend/cpu/parallel.h"

namespace switchyard {
namespace {

template <typename Real>
struct Softmax {
  Real maximum, total;  // of exp(x - maximum)
};

template <typename Real>
Softmax<Real> softmax_of(const Real* __restrict row, int64_t V) {
  Real maximum = row[0];
#pragma omp simd reduction(max : maximum)
  for (int64_t v = 0; v < V; ++v) maximum = row[v] > maximum ? row[v] : maximum;
  Real total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t v = 0; v < V; ++v) total += fast_exp(row[v] - maximum);
  return {maximum, total};
}

template <typename Real>
void to_gradient(Real* __restrict row, int64_t V, int32_t target, Softmax<Real> softmax,
                 Real scale) {
  const Real factor = scale / softmax.total;
#pragma omp simd
  for (int64_t v = 0; v < V; ++v) row[v] = fast_exp(row[v] - softmax.maximum) * factor;
  row[target] -= scale;
}

// The rows' losses are kept and added in order: the sum does not depend on the threads.
template <typename Real>
void cross_entropy(int threads, Tensor loss_sum, Tensor logits, Tensor target, bool want_gradient,
                   Real scale) {
  const int64_t T = logits.dim(0), V = logits.dim(1);
  // Before the threads start: an exception must not leave an OpenMP region.
  for (const int32_t label : target.span<int32_t>())
    SY_CHECK((label >= 0 && label < V) || label == kIgnoredTarget,
             "target {} outside a vocabulary of {}", label, V);
  std::vector<double> loss(static_cast<size_t>(T), 0.0);
  parallel_for(threads, T, rows_per_task(4 * V), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      Real* row = logits.data<Real>() + t * V;
      const int32_t label = target.data<int32_t>()[t];
      if (label == kIgnoredTarget) {
        if (want_gradient) std::fill_n(row, V, Real{0});
        continue;
      }
      const Softmax<Real> softmax = softmax_of(row, V);
      loss[static_cast<size_t>(t)] = static_cast<double>(softmax.maximum - row[label]) +
                                     std::log(static_cast<double>(softmax.total));
      if (want_gradient) to_gradient(row, V, label, softmax, scale);
    }
  });
  *loss_sum.data<double>() += std::accumulate(loss.begin(), loss.end(), 0.0);
}

}  // namespace

void CpuOps::do_cross_entropy_loss(Queue, Tensor loss_sum, Tensor logits, Tensor target) {
  with_real(logits.dtype(),
            [&](auto zero) { cross_entropy(num_threads_, loss_sum, logits, target, false, zero); });
}

void CpuOps::do_cross_entropy_loss_and_gradient(Queue, Tensor loss_sum, Tensor logits,
                                                Tensor target, Tensor scalars) {
  const double scale = scalars.data<double>()[static_cast<int>(StepScalar::kInverseTargetCount)];
  with_real(logits.dtype(), [&](auto zero) {
    cross_entropy(num_threads_, loss_sum, logits, target, true, static_cast<decltype(zero)>(scale));
  });
}

}  // namespace switchyard
