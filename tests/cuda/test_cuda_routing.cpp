// Routing on CUDA: capacity, load, bias, forced balance and jitter, equal to the CPU's.
#include <set>

#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t T, A, E, S;
};

enum class Scores { kProbs, kEqual, kAnything };

// Tokens that crowd into few experts, with scores of which many are equal.
template <typename Real>
struct CapacityCase {
  CapacityCase(const Sizes& s, Scores scores)
      : size(s), expert({s.T, s.A}), kept({s.T, s.A}, -7), score({s.T, s.A}, Real{0.5}) {
    const uint64_t key = random_key(7, "capacity");
    for (int64_t t = 0; t < s.T; ++t) {
      std::set<int64_t> taken;
      for (int64_t a = 0; a < s.A; ++a) {
        const auto i = static_cast<size_t>(t * s.A + a);
        const double u = random_uniform(key, i), v = random_uniform(key, i, 1);
        auto e = static_cast<int64_t>(u * u * u * static_cast<double>(s.E));
        while (!taken.insert(e % s.E).second) ++e;
        expert.values[i] = static_cast<int32_t>(e % s.E);
        const bool is_infinite = i % 13 == 5, is_nan = i % 11 == 5;
        if (scores == Scores::kProbs) score.values[i] = static_cast<Real>(std::floor(64 * v) / 64);
        if (scores != Scores::kAnything) continue;
        const double wide = std::ldexp(std::floor(9 * v) - 4, static_cast<int>(i % 30));
        score.values[i] = static_cast<Real>(is_infinite ? INFINITY : is_nan ? NAN : wide);
      }
    }
  }

  Outputs drop(Ops& ops, Placement& place, int64_t capacity, DropOrder order) {
    Tensor k = place(kept);
    ops.drop_tokens(kQueue, k, place(expert), place(score), size.E, size.S, capacity, order);
    place.fetch(kept, k);
    return outputs(kept);
  }

  Sizes size;
  HostTensor<int32_t> expert, kept;
  HostTensor<Real> score;
};

void check_drop(const Sizes& s, const std::vector<int64_t>& capacities,
                Scores scores = Scores::kProbs) {
  for (const DropOrder order : {DropOrder::kProbs, DropOrder::kPosition})
    for (const int64_t capacity : capacities) {
      CAPTURE(s.T, s.A, s.E, s.S, capacity, static_cast<int>(order), static_cast<int>(scores));
      check_equals_cpu([&](Ops& ops, Placement& place, auto zero) {
        CapacityCase<Compute<decltype(zero)>> c(s, scores);
        return c.drop(ops, place, capacity, order);
      });
    }
}

}  // namespace

TEST_CASE("capacity on CUDA keeps what the CPU keeps") {
  check_drop({48, 2, 6, 1}, {0, 1, 3, 8, 1000});
  check_drop({48, 2, 6, 4}, {0, 2, 1000});
  check_drop({35, 5, 5, 7}, {2});
  check_drop({20, 16, 130, 1}, {1});
  check_drop({1, 1, 1, 1}, {0, 1});
  check_drop({0, 2, 6, 3}, {4});
  check_drop({48, 2, 6, 4}, {1, 3}, Scores::kEqual);
  check_drop({120, 3, 6, 2}, {1, 5}, Scores::kAnything);
}

TEST_CASE("capacity on CUDA: all tokens to one expert, more than a block has threads") {
  check_drop({1300, 1, 1, 1}, {1, 600, 1299}, Scores::kEqual);
  check_drop({1300, 1, 1, 1}, {37, 700});
  check_drop({1300, 1, 3, 2}, {300});
}

TEST_CASE("expert load on CUDA counts on top of what was counted") {
  for (const int64_t T : {0, 1, 300, 5000}) {
    CAPTURE(T);
    check_equals_cpu([&](Ops& ops, Placement& place, auto) {
      HostTensor<int32_t> kept({T, 2});
      for (size_t i = 0; i < kept.values.size(); ++i)
        kept.values[i] = i % 5 == 0 ? -1 : i % 5 < 4 ? 2 : static_cast<int32_t>(i % 40);
      HostTensor<double> count({41}, 10.0);
      Tensor c = place(count);
      ops.expert_load(kQueue, c, place(kept));
      place.fetch(count, c);
      return outputs(count);
    });
  }
}

TEST_CASE("the bias on CUDA rises and falls as on the CPU, and not in a skipped step") {
  for (const int64_t E : {1, 3, 300})
    for (const double skip : {0.0, 1.0}) {
      CAPTURE(E, skip);
      check_equals_cpu([&](Ops& ops, Placement& place, auto) {
        HostTensor<double> bias({E}, 0.5), count({E + 1}), scalars({kNumStepScalars}, 0.0);
        for (size_t e = 0; e < count.values.size(); ++e)
          count.values[e] = static_cast<double>(e % 7);
        scalars.values[static_cast<size_t>(StepScalar::kSkipStep)] = skip;
        Tensor b = place(bias);
        ops.update_router_bias(kQueue, b, place(count), place(scalars), 0.125);
        place.fetch(bias, b);
        return outputs(bias);
      });
    }
}

TEST_CASE("the balanced choice on CUDA") {
  for (const int64_t T : {0, 5, 700})
    check_equals_cpu([&](Ops& ops, Placement& place, auto) {
      HostTensor<int32_t> expert({T, 3}, -7);
      Tensor e = place(expert);
      ops.balanced_choice(kQueue, e, int64_t{1} << 40, 9);
      place.fetch(expert, e);
      return outputs(expert);
    });
}

// Factors are computed in f64 and rounded once; f64 may fuse a product and a sum. Once into another
// tensor, once in place, as on a gradient.
template <typename Real>
Outputs jitter(Ops& ops, Placement& place, int64_t T, int64_t width) {
  auto x = shared_random<Real>("x", {T, width}), y = x, in_place = x;
  std::fill(y.values.begin(), y.values.end(), kUnset<Real>);
  const uint64_t key = random_key(3, "jitter");
  Tensor to = place(y), same = place(in_place);
  ops.jitter(kQueue, to, place(x), 0.01, key, 5, int64_t{1} << 33);
  ops.jitter(kQueue, same, same, 0.01, key, 5, int64_t{1} << 33);
  place.fetch(y, to);
  place.fetch(in_place, same);
  return outputs(y, in_place);
}

TEST_CASE("jitter on CUDA multiplies by the numbers of its stream") {
  for (const int64_t width : {17, 64})
    for (const int64_t T : {0, 1, 90}) {
      CAPTURE(width, T);
      const auto run = [&](Ops& ops, Placement& place, auto zero) {
        return jitter<decltype(zero)>(ops, place, T, width);
      };
      check_on_cuda(1e-7, run, 1e-15);
    }
}
