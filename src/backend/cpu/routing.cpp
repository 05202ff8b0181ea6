// What may change the router's choice or its input: forced balance, jitter, capacity, the bias; and
// the load.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/storage.h"
#include "backend/dispatch.h"
#include "core/random.h"

namespace switchyard {
namespace {

// Equal probabilities are common, and their last bits depend on the shape of the matrix product:
// scores are compared on this grid, so that ties are ties on every layout.
int64_t rounded(double score) {
  return std::isfinite(score) ? static_cast<int64_t>(std::nearbyint(score * 0x1.0p20)) : 0;
}

// One choice that competes for a place: lower ranks first.
struct Candidate {
  int64_t rank;
  int64_t token;
  int64_t slot;
};

// Keeps the `capacity` best candidates of each expert within tokens [begin, end).
template <typename Real>
void drop_in_scope(int32_t* kept, const int32_t* expert, const Real* score, int64_t begin,
                   int64_t end, int64_t A, int64_t num_experts, int64_t capacity, DropOrder order) {
  std::vector<std::vector<Candidate>> candidates(static_cast<size_t>(num_experts));
  for (int64_t t = begin; t < end; ++t)
    for (int64_t a = 0; a < A; ++a) {
      const int64_t i = t * A + a;
      kept[i] = -1;
      const int64_t rank = order == DropOrder::kProbs ? -rounded(static_cast<double>(score[i])) : a;
      candidates[static_cast<size_t>(expert[i])].push_back({rank, t, a});
    }
  for (size_t e = 0; e < candidates.size(); ++e) {
    auto& list = candidates[e];
    const size_t places = std::min(list.size(), static_cast<size_t>(capacity));
    std::partial_sort(list.begin(), list.begin() + static_cast<ptrdiff_t>(places), list.end(),
                      [](const Candidate& a, const Candidate& b) {
                        return std::pair(a.rank, a.token) < std::pair(b.rank, b.token);
                      });
    for (size_t i = 0; i < places; ++i)
      kept[list[i].token * A + list[i].slot] = static_cast<int32_t>(e);
  }
}

}  // namespace

void CpuOps::do_balanced_choice(Queue, Tensor expert, int64_t first_token, int64_t num_experts) {
  const int64_t A = expert.dim(1);
  for (int64_t i = 0; i < expert.numel(); ++i)
    expert.data<int32_t>()[i] = static_cast<int32_t>((first_token * A + i) % num_experts);
}

void CpuOps::do_jitter(Queue, Tensor y, Tensor x, double eps, uint64_t key, uint64_t stream,
                       int64_t first_row) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t first = first_row * x.dim(1);
    parallel_for(num_threads_, x.numel(), 1 << 10, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const double u = random_uniform(key, static_cast<uint64_t>(first + i), stream);
        store(y.data<Real>()[i],
              load(x.data<Real>()[i]) * static_cast<Compute<Real>>(1 + eps * (2 * u - 1)));
      }
    });
  });
}

void CpuOps::do_drop_tokens(Queue, Tensor kept, Tensor expert, Tensor score, int64_t num_experts,
                            int64_t num_scopes, int64_t capacity, DropOrder order) {
  with_accumulator(score.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t n = expert.dim(0) / num_scopes;
    parallel_tasks(num_threads_, num_scopes, [&](int64_t scope) {
      drop_in_scope(kept.data<int32_t>(), expert.data<int32_t>(), score.data<Real>(), scope * n,
                    (scope + 1) * n, expert.dim(1), num_experts, capacity, order);
    });
  });
}

void CpuOps::do_expert_load(Queue, Tensor count, Tensor kept) {
  const int64_t E = count.numel() - 1;
  for (const int32_t expert : kept.span<int32_t>())
    count.data<double>()[expert >= 0 ? expert : E] += 1;
}

void CpuOps::do_update_router_bias(Queue, Tensor bias, Tensor count, Tensor scalars, double rate) {
  if (scalars.data<double>()[static_cast<int64_t>(StepScalar::kSkipStep)] != 0) return;
  const int64_t E = bias.numel();
  const double* counts = count.data<double>();
  // Compared as whole numbers: E * count against the sum, exact where a mean would be rounded.
  const double sum = std::accumulate(counts, counts + E, 0.0);
  for (int64_t e = 0; e < E; ++e) {
    const double missing = sum - static_cast<double>(E) * counts[e];
    bias.data<double>()[e] += missing > 0 ? rate : missing < 0 ? -rate : 0;
  }
}

}  // namespace switchyard
