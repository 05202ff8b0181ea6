// Router: scores, top-k, the statistics of the balance loss, and the gradient of all of it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backend/cpu/choose.h"
#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/parallel.h"
#include "backend/dispatch.h"

namespace switchyard {
namespace {

// Precise exp everywhere: these few numbers decide routes.
template <typename Real>
Real log_sum_exp(const Real* logits, int64_t E) {
  const Real largest = *std::max_element(logits, logits + E);
  Real total = 0;
  for (int64_t e = 0; e < E; ++e) total += std::exp(logits[e] - largest);
  return largest + std::log(total);
}

template <typename Real>
void softmax_row(Real* probs, const Real* logits, int64_t E) {
  const Real largest = *std::max_element(logits, logits + E);
  Real total = 0;
  for (int64_t e = 0; e < E; ++e) total += probs[e] = std::exp(logits[e] - largest);
  for (int64_t e = 0; e < E; ++e) probs[e] /= total;
}

template <typename Real>
Real sigmoid(Real x) {
  const Real z = std::exp(-std::abs(x));
  return (x >= 0 ? Real{1} : z) / (1 + z);
}

// What divides the scores of a row to give the probabilities of the balance loss. Sigmoids may all
// underflow: then the probabilities are zero.
template <typename Real>
Real total_of_probs(const Real* scores, int64_t E, RouterScore score) {
  if (score == RouterScore::kSoftmax) return 1;
  return std::accumulate(scores, scores + E, std::numeric_limits<Real>::min());
}

// What divides the scores of the chosen to give their weights.
template <typename Real>
Real total_of_chosen(const Real* scores, const int32_t* chosen, int64_t A, const RouterRule& rule) {
  if (!rule.normalize) return 1;
  Real total = rule.score == RouterScore::kSigmoid ? static_cast<Real>(1e-20) : Real{0};
  for (int64_t a = 0; a < A; ++a) total += scores[chosen[a]];
  return total;
}

// Minus infinity in place of the keys outside the best groups.
void leave_best_groups(double* key, int64_t E, const RouterRule& rule, int32_t* best_groups,
                       double* group_score) {
  const int64_t G = rule.num_groups, size = E / G;
  for (int64_t g = 0; g < G; ++g) {
    int32_t best[2];
    choose_largest(best, key + g * size, size, 2);
    group_score[g] = key[g * size + best[0]] + key[g * size + best[1]];
  }
  choose_largest(best_groups, group_score, G, rule.top_groups);
  for (int64_t g = 0; g < G; ++g)
    if (std::find(best_groups, best_groups + rule.top_groups, g) == best_groups + rule.top_groups)
      std::fill_n(key + g * size, size, -std::numeric_limits<double>::infinity());
}

// Room for one token's choice.
struct Choice {
  Choice(int64_t E, const RouterRule& rule)
      : key(static_cast<size_t>(E)),
        group_score(static_cast<size_t>(rule.num_groups)),
        best_groups(static_cast<size_t>(rule.top_groups)) {}

  template <typename Real>
  void choose(int32_t* chosen, const Real* scores, const double* bias, int64_t A,
              const RouterRule& rule) {
    const auto E = static_cast<int64_t>(key.size());
    for (int64_t e = 0; e < E; ++e)
      key[static_cast<size_t>(e)] =
          static_cast<double>(scores[e]) + (bias == nullptr ? 0.0 : bias[e]);
    if (rule.top_groups < rule.num_groups)
      leave_best_groups(key.data(), E, rule, best_groups.data(), group_score.data());
    choose_largest(chosen, key.data(), E, A);
  }

  std::vector<double> key, group_score;
  std::vector<int32_t> best_groups;
};

template <typename Real>
double entropy_of(const Real* scores, int64_t E, RouterScore score) {
  const auto total = static_cast<double>(total_of_probs(scores, E, score));
  double entropy = 0;
  for (int64_t e = 0; e < E; ++e)
    if (const double p = static_cast<double>(scores[e]) / total; p > 0) entropy -= p * std::log(p);
  return entropy;
}

// u = scores * dL/dscores of one token. Balance: with P = scores / total and b = balance_scale *
// prob_gradient, u = P (b - sum b P). Weights, of the chosen only: weight_a = scale p_a / sum p
// when normalised, so dp_a = (scale dw_a - sum_b dw_b w_b) / sum p.
template <typename Real>
void scaled_gradient(Real* u, const Real* scores, const double* prob_gradient, double balance_scale,
                     int64_t E, const int32_t* chosen, const Real* weight, const Real* dweight,
                     int64_t A, const RouterRule& rule) {
  const Real total = total_of_probs(scores, E, rule.score);
  Real mean = 0;
  for (int64_t e = 0; e < E; ++e) {
    u[e] = static_cast<Real>(balance_scale * prob_gradient[e]);
    mean += u[e] * (scores[e] / total);
  }
  for (int64_t e = 0; e < E; ++e) u[e] = (u[e] - mean) * (scores[e] / total);
  const Real dot = rule.normalize ? std::inner_product(dweight, dweight + A, weight, Real{0}) : 0;
  const Real sum = total_of_chosen(scores, chosen, A, rule);
  for (int64_t a = 0; a < A; ++a)
    u[chosen[a]] += scores[chosen[a]] / sum * (static_cast<Real>(rule.scale) * dweight[a] - dot);
}

}  // namespace

void CpuOps::do_router_forward(Queue, Tensor probs, Tensor lse, Tensor expert, Tensor score,
                               Tensor weight, Tensor z_sum, Tensor entropy_sum, Tensor logits,
                               Tensor bias, const RouterRule& rule, bool expert_is_given) {
  with_accumulator(logits.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = logits.dim(0), E = logits.dim(1), A = expert.dim(1);
    const double* bias_of_choice = bias.is_none() ? nullptr : bias.data<double>();
    std::vector<double> entropy(static_cast<size_t>(T));
    parallel_for(num_threads_, T, rows_per_task(32 * E), [&](int64_t begin, int64_t end) {
      Choice choice(E, rule);
      for (int64_t t = begin; t < end; ++t) {
        const Real* row = logits.data<Real>() + t * E;
        Real* p = probs.data<Real>() + t * E;
        int32_t* chosen = expert.data<int32_t>() + t * A;
        lse.data<Real>()[t] = log_sum_exp(row, E);
        if (rule.score == RouterScore::kSoftmax)
          softmax_row(p, row, E);
        else
          std::transform(row, row + E, p, sigmoid<Real>);
        if (!expert_is_given) choice.choose(chosen, p, bias_of_choice, A, rule);
        const Real factor = static_cast<Real>(rule.scale) / total_of_chosen(p, chosen, A, rule);
        for (int64_t a = 0; a < A; ++a) {
          score.data<Real>()[t * A + a] = p[chosen[a]];
          weight.data<Real>()[t * A + a] = p[chosen[a]] * factor;
        }
        entropy[static_cast<size_t>(t)] = entropy_of(p, E, rule.score);
      }
    });
    for (const Real log_sum : lse.span<Real>())
      *z_sum.data<double>() += static_cast<double>(log_sum) * static_cast<double>(log_sum);
    *entropy_sum.data<double>() += std::accumulate(entropy.begin(), entropy.end(), 0.0);
  });
}

void CpuOps::do_router_statistics(Queue, Tensor count, Tensor prob_sum, Tensor expert, Tensor probs,
                                  RouterScore score, int64_t first_row, int64_t rows_per_scope) {
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
                     const Real* p = probs.data<Real>() + t * E;
                     const auto total = static_cast<double>(total_of_probs(p, E, score));
                     double* counts = count.data<double>() + scope * E;
                     double* sums = prob_sum.data<double>() + scope * E;
                     for (int64_t a = 0; a < A; ++a) counts[expert.data<int32_t>()[t * A + a]] += 1;
                     for (int64_t e = 0; e < E; ++e) sums[e] += static_cast<double>(p[e]) / total;
                   }
                 });
  });
}

void CpuOps::do_balance_loss(Queue, Tensor loss_sum, Tensor prob_gradient, Tensor count,
                             Tensor prob_sum, int64_t tokens_per_scope, int64_t counted_tokens,
                             int64_t top_k) {
  const int64_t S = count.dim(0), E = count.dim(1);
  const auto n = static_cast<double>(tokens_per_scope);
  const double choices = static_cast<double>(top_k) * static_cast<double>(counted_tokens);
  for (int64_t s = 0; s < S; ++s) {
    double loss = 0;
    for (int64_t i = s * E; i < (s + 1) * E; ++i) {
      const double gradient = static_cast<double>(E) * (count.data<double>()[i] / choices) / n;
      prob_gradient.data<double>()[i] = gradient;
      loss += gradient * prob_sum.data<double>()[i];
    }
    *loss_sum.data<double>() += loss;
  }
}

// From u = scores * dL/dscores: u - p sum u for the softmax, (1 - s) u for sigmoids. The z-loss
// adds 2 z_scale lse softmax(logits).
void CpuOps::do_router_backward(Queue, Tensor dlogits, Tensor dweight, Tensor expert, Tensor weight,
                                Tensor probs, Tensor lse, Tensor logits, Tensor prob_gradient,
                                const RouterRule& rule, int64_t first_row, int64_t rows_per_scope,
                                double balance_scale, double z_scale) {
  with_accumulator(probs.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = probs.dim(0), E = probs.dim(1), A = expert.dim(1);
    parallel_for(num_threads_, T, rows_per_task(8 * E), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const Real* p = probs.data<Real>() + t * E;
        const Real log_sum = lse.data<Real>()[t], z = static_cast<Real>(2 * z_scale) * log_sum;
        Real* u = dlogits.data<Real>() + t * E;
        scaled_gradient(u, p, prob_gradient.data<double>() + (first_row + t) / rows_per_scope * E,
                        balance_scale, E, expert.data<int32_t>() + t * A,
                        weight.data<Real>() + t * A, dweight.data<Real>() + t * A, A, rule);
        if (rule.score == RouterScore::kSoftmax) {
          const Real sum = std::accumulate(u, u + E, Real{0});
          for (int64_t e = 0; e < E; ++e) u[e] += p[e] * (z - sum);
        } else {
          const Real* row = logits.data<Real>() + t * E;
          for (int64_t e = 0; e < E; ++e) u[e] = (1 - p[e]) * u[e] + z * std::exp(row[e] - log_sum);
        }
      }
    });
  });
}

}  // namespace switchyard
