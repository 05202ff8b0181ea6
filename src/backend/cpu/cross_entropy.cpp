// Softmax cross-entropy over a vocabulary in slices, with its gradient in place of the logits.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/exp.h"
#include "backend/cpu/parallel.h"
#include "backend/dispatch.h"

namespace switchyard {
namespace {

constexpr double kNowhere = -std::numeric_limits<double>::infinity();

// One row of one slice, or, combined, of the whole vocabulary.
struct RowStatistics {
  double maximum = kNowhere;
  double total = 0;                // of exp(logit - maximum)
  double target_logit = kNowhere;  // -infinity where the slice does not hold the target
};
static_assert(sizeof(RowStatistics) == 3 * sizeof(double));

template <typename Real>
RowStatistics statistics_of(const Real* __restrict row, int64_t V) {
  if (V == 0) return {};
  Real maximum = row[0];
#pragma omp simd reduction(max : maximum)
  for (int64_t v = 0; v < V; ++v) maximum = row[v] > maximum ? row[v] : maximum;
  Real total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t v = 0; v < V; ++v) total += fast_exp(row[v] - maximum);
  return {static_cast<double>(maximum), static_cast<double>(total), kNowhere};
}

// Of row t over all slices, in their order.
RowStatistics combined(Tensor statistics, int64_t t) {
  const int64_t P = statistics.dim(0), T = statistics.dim(1);
  const auto* slices = reinterpret_cast<const RowStatistics*>(statistics.data<double>());
  RowStatistics whole = slices[t];
  for (int64_t p = 1; p < P; ++p) {
    const RowStatistics& slice = slices[p * T + t];
    const double maximum = slice.maximum > whole.maximum ? slice.maximum : whole.maximum;
    const auto scaled = [&](const RowStatistics& part) {
      return part.total == 0 ? 0 : part.total * std::exp(part.maximum - maximum);
    };
    whole.total = scaled(whole) + scaled(slice);
    whole.maximum = maximum;
    if (slice.target_logit != kNowhere) whole.target_logit = slice.target_logit;
  }
  return whole;
}

// `column` of the target, when it is in this slice.
template <typename Real>
void to_gradient(Real* __restrict row, int64_t V, int64_t column, const RowStatistics& whole,
                 Real scale) {
  const Real factor = scale / static_cast<Real>(whole.total);
  const auto maximum = static_cast<Real>(whole.maximum);
#pragma omp simd
  for (int64_t v = 0; v < V; ++v) row[v] = fast_exp(row[v] - maximum) * factor;
  if (column >= 0 && column < V) row[column] -= scale;
}

}  // namespace

void CpuOps::do_softmax_statistics(Queue, Tensor statistics, Tensor logits, Tensor target,
                                   int64_t first_id, int64_t vocab_size) {
  // Before the threads start: an exception must not leave an OpenMP region.
  for (const int32_t label : target.span<int32_t>())
    SY_CHECK((label >= 0 && label < vocab_size) || label == kIgnoredTarget,
             "target {} outside a vocabulary of {}", label, vocab_size);
  with_accumulator(logits.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = logits.dim(0), V = logits.dim(1);
    auto* rows = reinterpret_cast<RowStatistics*>(statistics.data<double>());
    parallel_for(num_threads_, T, rows_per_task(2 * V), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const Real* row = logits.data<Real>() + t * V;
        const int64_t column = target.data<int32_t>()[t] - first_id;
        rows[t] = statistics_of(row, V);
        if (column >= 0 && column < V) rows[t].target_logit = static_cast<double>(row[column]);
      }
    });
  });
}

void CpuOps::do_cross_entropy_loss(Queue, Tensor loss_sum, Tensor statistics, Tensor target,
                                   int64_t first_row, int64_t num_rows) {
  double sum = 0;
  for (int64_t t = first_row; t < first_row + num_rows; ++t) {
    if (target.data<int32_t>()[t] == kIgnoredTarget) continue;
    const RowStatistics whole = combined(statistics, t);
    sum += whole.maximum - whole.target_logit + std::log(whole.total);
  }
  *loss_sum.data<double>() += sum;
}

void CpuOps::do_cross_entropy_gradient(Queue, Tensor logits, Tensor statistics, Tensor target,
                                       int64_t first_id, Tensor scalars) {
  const double scale = scalars.data<double>()[static_cast<int>(StepScalar::kInverseTargetCount)];
  with_accumulator(logits.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = logits.dim(0), V = logits.dim(1);
    parallel_for(num_threads_, T, rows_per_task(2 * V), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        Real* row = logits.data<Real>() + t * V;
        const int32_t label = target.data<int32_t>()[t];
        if (label == kIgnoredTarget)
          std::fill_n(row, V, Real{0});
        else
          to_gradient(row, V, label - first_id, combined(statistics, t), static_cast<Real>(scale));
      }
    });
  });
}

}  // namespace switchyard
