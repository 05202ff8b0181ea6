// Sinkhorn: factors that even out what experts get, and the choice by them.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/cpu/choose.h"
#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/parallel.h"
#include "backend/dispatch.h"

namespace switchyard {

// Against division by zero, where a token or an expert gets nothing.
constexpr double kTiny = 1e-8;

void CpuOps::do_sinkhorn_costs(Queue, Tensor cost, Tensor logits) {
  with_accumulator(logits.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = logits.dim(0), E = logits.dim(1);
    parallel_for(num_threads_, T, rows_per_task(16 * E), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const Real* row = logits.data<Real>() + t * E;
        const Real largest = *std::max_element(row, row + E);
        for (int64_t e = 0; e < E; ++e)
          cost.data<double>()[t * E + e] = std::exp(static_cast<double>(row[e] - largest));
      }
    });
  });
}

void CpuOps::do_sinkhorn_sums(Queue, Tensor sum, Tensor factor, Tensor cost, int64_t first_row,
                              int64_t rows_per_scope) {
  const int64_t S = sum.dim(0), E = sum.dim(1), T = cost.dim(0);
  std::fill_n(sum.data<double>(), S * E, 0.0);
  const auto n = static_cast<double>(rows_per_scope);
  // A thread has whole scopes, so that every sum runs in order.
  parallel_for(num_threads_, S, rows_per_task(2 * rows_per_scope * E),
               [&](int64_t begin, int64_t end) {
                 const int64_t first = std::max<int64_t>(0, begin * rows_per_scope - first_row);
                 const int64_t last = std::min(T, end * rows_per_scope - first_row);
                 for (int64_t t = first; t < last; ++t) {
                   const int64_t scope = (first_row + t) / rows_per_scope;
                   const double* c = cost.data<double>() + t * E;
                   const double* f = factor.data<double>() + scope * E;
                   const double of_token = 1 / (n * (std::inner_product(c, c + E, f, 0.0) + kTiny));
                   double* sums = sum.data<double>() + scope * E;
                   for (int64_t e = 0; e < E; ++e) sums[e] += of_token * c[e];
                 }
               });
}

void CpuOps::do_sinkhorn_factors(Queue, Tensor factor, Tensor sum) {
  const auto E = static_cast<double>(sum.dim(1));
  for (int64_t i = 0; i < sum.numel(); ++i)
    factor.data<double>()[i] = 1 / (E * (sum.data<double>()[i] + kTiny));
}

void CpuOps::do_sinkhorn_choice(Queue, Tensor expert, Tensor factor, Tensor cost, int64_t first_row,
                                int64_t rows_per_scope) {
  const int64_t T = cost.dim(0), E = cost.dim(1), A = expert.dim(1);
  parallel_for(num_threads_, T, rows_per_task(4 * E), [&](int64_t begin, int64_t end) {
    std::vector<double> key(static_cast<size_t>(E));
    for (int64_t t = begin; t < end; ++t) {
      const double* c = cost.data<double>() + t * E;
      const double* f = factor.data<double>() + (first_row + t) / rows_per_scope * E;
      std::transform(c, c + E, f, key.begin(), std::multiplies<>());
      choose_largest(expert.data<int32_t>() + t * A, key.data(), E, A);
    }
  });
}

}  // namespace switchyard
