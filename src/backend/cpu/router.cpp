// Router: softmax, top-k, the statistics of the balance loss, and the gradient of all of it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/dispatch.h"
#include "backend/cpu/parallel.h"

namespace switchyard {
namespace {

// probs = softmax(logits); returns the log-sum-exp. Precise exp: these few numbers decide routes.
template <typename Real>
Real softmax_row(Real* probs, const Real* logits, int64_t E) {
  const Real largest = *std::max_element(logits, logits + E);
  Real total = 0;
  for (int64_t e = 0; e < E; ++e) total += probs[e] = std::exp(logits[e] - largest);
  for (int64_t e = 0; e < E; ++e) probs[e] /= total;
  return largest + std::log(total);
}

// The A largest, largest first, the lower index first among equals. A NaN never compares larger, so
// that some valid expert is chosen; the NaN itself reaches the loss through the weights.
template <typename Real>
void choose(int32_t* expert, const Real* probs, int64_t E, int64_t A) {
  for (int64_t a = 0; a < A; ++a) {
    const auto taken = [&](int64_t e) { return std::find(expert, expert + a, e) != expert + a; };
    int64_t best = -1;
    for (int64_t e = 0; e < E; ++e)
      if (!taken(e) && (best < 0 || probs[e] > probs[best])) best = e;
    expert[a] = static_cast<int32_t>(best);
  }
}

}  // namespace

void CpuOps::do_router_forward(Queue, Tensor probs, Tensor lse, Tensor expert, Tensor score,
                               Tensor weight, Tensor z_sum, Tensor logits, bool normalize,
                               bool expert_is_given) {
  with_accumulator(logits.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = logits.dim(0), E = logits.dim(1), A = expert.dim(1);
    parallel_for(num_threads_, T, rows_per_task(16 * E), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        Real* p = probs.data<Real>() + t * E;
        int32_t* chosen = expert.data<int32_t>() + t * A;
        lse.data<Real>()[t] = softmax_row(p, logits.data<Real>() + t * E, E);
        if (!expert_is_given) choose(chosen, p, E, A);
        Real total = 0;
        for (int64_t a = 0; a < A; ++a) total += score.data<Real>()[t * A + a] = p[chosen[a]];
        for (int64_t a = 0; a < A; ++a)
          weight.data<Real>()[t * A + a] =
              score.data<Real>()[t * A + a] / (normalize ? total : Real{1});
      }
    });
    for (const Real log_sum : lse.span<Real>())
      *z_sum.data<double>() += static_cast<double>(log_sum) * static_cast<double>(log_sum);
  });
}

void CpuOps::do_router_statistics(Queue, Tensor count, Tensor prob_sum, Tensor expert, Tensor probs,
                                  int64_t first_row, int64_t rows_per_scope) {
  with_accumulator(probs.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t S = count.dim(0), E = probs.dim(1), A = expert.dim(1), T = probs.dim(0);
    std::fill_n(count.data<double>(), S * E, 0.0);
    std::fill_n(prob_sum.data<double>(), S * E, 0.0);
    // A thread has whole scopes, so that every sum runs in order.
    parallel_for(num_threads_, S, rows_per_task(rows_per_scope * E),
                 [&](int64_t begin, int64_t end) {
                   const int64_t first = std::max<int64_t>(0, begin * rows_per_scope - first_row);
                   const int64_t last = std::min(T, end * rows_per_scope - first_row);
                   for (int64_t t = first; t < last; ++t) {
                     const int64_t scope = (first_row + t) / rows_per_scope;
                     double* counts = count.data<double>() + scope * E;
                     double* sums = prob_sum.data<double>() + scope * E;
                     for (int64_t a = 0; a < A; ++a) counts[expert.data<int32_t>()[t * A + a]] += 1;
                     for (int64_t e = 0; e < E; ++e)
                       sums[e] += static_cast<double>(probs.data<Real>()[t * E + e]);
                   }
                 });
  });
}

void CpuOps::do_balance_loss(Queue, Tensor loss_sum, Tensor prob_gradient, Tensor count,
                             Tensor prob_sum, int64_t tokens_per_scope, int64_t top_k) {
  const int64_t S = count.dim(0), E = count.dim(1);
  const auto n = static_cast<double>(tokens_per_scope);
  for (int64_t s = 0; s < S; ++s) {
    double loss = 0;
    for (int64_t i = s * E; i < (s + 1) * E; ++i) {
      const double fraction = count.data<double>()[i] / (static_cast<double>(top_k) * n);
      const double gradient = static_cast<double>(E) * fraction / n;
      prob_gradient.data<double>()[i] = gradient;
      loss += gradient * prob_sum.data<double>()[i];
    }
    *loss_sum.data<double>() += loss;
  }
}

// With g = dL/dprobs: balance contributes balance_scale * prob_gradient to every entry; the weights
// contribute to the chosen ones (weight_a = p_a / sum p when normalised, so dp_a =
// (dw_a - sum_b dw_b w_b) / sum p). Softmax: dlogits = p (g - sum g p). z: 2 z_scale lse p.
void CpuOps::do_router_backward(Queue, Tensor dlogits, Tensor dweight, Tensor expert, Tensor weight,
                                Tensor probs, Tensor lse, Tensor prob_gradient, int64_t first_row,
                                int64_t rows_per_scope, double balance_scale, double z_scale,
                                bool normalize) {
  with_accumulator(probs.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = probs.dim(0), E = probs.dim(1), A = expert.dim(1);
    parallel_for(num_threads_, T, rows_per_task(8 * E), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const Real* p = probs.data<Real>() + t * E;
        const Real* dw = dweight.data<Real>() + t * A;
        const int32_t* chosen = expert.data<int32_t>() + t * A;
        const double* balance = prob_gradient.data<double>() + (first_row + t) / rows_per_scope * E;
        Real* g = dlogits.data<Real>() + t * E;
        for (int64_t e = 0; e < E; ++e) g[e] = static_cast<Real>(balance_scale * balance[e]);
        Real total = 1, mean = 0;
        if (normalize) {
          total = 0;
          for (int64_t a = 0; a < A; ++a) {
            total += p[chosen[a]];
            mean += dw[a] * weight.data<Real>()[t * A + a];
          }
        }
        for (int64_t a = 0; a < A; ++a) g[chosen[a]] += (dw[a] - mean) / total;
        const Real z = static_cast<Real>(2 * z_scale) * lse.data<Real>()[t];
        const Real average = std::inner_product(g, g + E, p, Real{0});
        for (int64_t e = 0; e < E; ++e) g[e] = p[e] * (g[e] - average + z);
      }
    });
  });
}

}  // namespace switchyard
