// Balancing without a loss: the bias of the choice, and Sinkhorn.
#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

std::vector<double> bias_after(const std::vector<double>& counts, double rate,
                               double skip_step = 0) {
  CpuBackend backend(1);
  const auto E = static_cast<int64_t>(counts.size()) - 1;
  HostTensor<double> bias({E}, 0.5), scalars({kNumStepScalars}, 0.0);
  auto count = host_tensor<double>({E + 1}, counts);
  scalars.values[static_cast<size_t>(StepScalar::kSkipStep)] = skip_step;
  backend.ops().update_router_bias(kQueue, bias, count, scalars, rate);
  return bias.values;
}

// All of Sinkhorn on the rows [first_row, first_row + rows) of the logits, sums of pieces added up.
template <typename Real>
struct Sinkhorn {
  Sinkhorn(int64_t T_, int64_t E_, int64_t A, int64_t S_, double spread = 1)
      : T(T_),
        E(E_),
        S(S_),
        logits(shared_random<Real>("logits", {T_, E_}, spread)),
        cost({T_, E_}, kUnset<double>),
        factor({S_, E_}, 1.0),
        sum({S_, E_}, kUnset<double>),
        expert({T_, A}, -7) {}

  void run(Ops& ops, int iterations, const std::vector<int64_t>& cuts) {
    ops.sinkhorn_costs(kQueue, cost, logits);
    for (int i = 0; i < iterations; ++i) {
      std::vector<double> total(sum.values.size(), 0.0);
      for (size_t piece = 0; piece + 1 < cuts.size(); ++piece) {
        const int64_t first = cuts[piece], rows = cuts[piece + 1] - first;
        std::fill(sum.values.begin(), sum.values.end(), kUnset<double>);
        ops.sinkhorn_sums(kQueue, sum, factor, cost.view().rows(first, rows), first, T / S);
        for (size_t j = 0; j < total.size(); ++j) total[j] += sum.values[j];
      }
      sum.values = total;
      ops.sinkhorn_factors(kQueue, factor, sum);
    }
    for (size_t piece = 0; piece + 1 < cuts.size(); ++piece) {
      const int64_t first = cuts[piece], rows = cuts[piece + 1] - first;
      ops.sinkhorn_choice(kQueue, expert.view().rows(first, rows), factor,
                          cost.view().rows(first, rows), first, T / S);
    }
  }

  int64_t T, E, S;
  HostTensor<Real> logits;
  HostTensor<double> cost, factor, sum;
  HostTensor<int32_t> expert;
};

// The iteration as Megatron writes it, on exp(logits) and for one scope, in long double.
std::vector<int32_t> naive_choice(const std::vector<double>& logits, int64_t T, int64_t E,
                                  int64_t A, int iterations) {
  using Wide = long double;
  const auto cost = [&](int64_t t, int64_t e) {
    return std::exp(static_cast<Wide>(logits[t * E + e]));
  };
  std::vector<Wide> of_token(static_cast<size_t>(T)), of_expert(static_cast<size_t>(E), 1);
  for (int i = 0; i < iterations; ++i) {
    for (int64_t t = 0; t < T; ++t) {
      Wide total = 0;
      for (int64_t e = 0; e < E; ++e) total += of_expert[e] * cost(t, e);
      of_token[t] = 1 / (static_cast<Wide>(T) * (total + 1e-8L));
    }
    for (int64_t e = 0; e < E; ++e) {
      Wide total = 0;
      for (int64_t t = 0; t < T; ++t) total += of_token[t] * cost(t, e);
      of_expert[e] = 1 / (static_cast<Wide>(E) * (total + 1e-8L));
    }
  }
  std::vector<int32_t> expert;
  for (int64_t t = 0; t < T; ++t) {
    std::vector<int32_t> order(static_cast<size_t>(E));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return of_expert[a] * cost(t, a) > of_expert[b] * cost(t, b);
    });
    expert.insert(expert.end(), order.begin(), order.begin() + A);
  }
  return expert;
}

int64_t largest_load(const std::vector<int32_t>& expert, int64_t E) {
  std::vector<int64_t> load(static_cast<size_t>(E), 0);
  for (const int32_t e : expert) ++load[static_cast<size_t>(e)];
  return *std::max_element(load.begin(), load.end());
}

}  // namespace

TEST_CASE("the bias rises for experts below the mean, falls above, and stays at it") {
  // The mean of 3, 9, 6, 6 is 6; the last entry (dropped choices) does not count.
  CHECK(bias_after({3, 9, 6, 6, 100}, 0.125) == std::vector<double>{0.625, 0.375, 0.5, 0.5});
  CHECK(bias_after({0, 0, 0, 0}, 0.125) == std::vector<double>{0.5, 0.5, 0.5});
  // A mean of 7/3: nobody stands at it.
  CHECK(bias_after({2, 3, 2, 0}, 0.25) == std::vector<double>{0.75, 0.25, 0.75});
  CHECK(bias_after({3, 9, 6, 6, 100}, 0.125, 1) == std::vector<double>(4, 0.5));  // skipped step
}

TEST_CASE("Sinkhorn against plain loops, scope by scope, whatever the pieces") {
  for (const int threads : {1, 3}) {
    CpuBackend backend(threads);
    for (const int64_t A : {1, 2})
      for (const int iterations : {1, 2, 8}) {
        CAPTURE(A, iterations);
        Sinkhorn<double> c(60, 5, A, 3, 2.0);
        std::vector<int32_t> expected;
        for (int64_t s = 0; s < 3; ++s) {
          const auto begin = c.logits.values.begin() + s * 100;
          const auto chosen =
              naive_choice(std::vector<double>(begin, begin + 100), 20, 5, A, iterations);
          expected.insert(expected.end(), chosen.begin(), chosen.end());
        }
        for (const std::vector<int64_t>& cuts :
             {std::vector<int64_t>{0, 60}, {0, 13, 13, 41, 60}}) {
          c.factor.values.assign(15, 1.0);
          c.run(backend.ops(), iterations, cuts);
          CHECK(c.expert.values == expected);
        }
      }
  }
}

TEST_CASE("Sinkhorn evens out a router that prefers one expert") {
  CpuBackend backend(1);
  Sinkhorn<double> c(400, 4, 1, 1);
  for (size_t t = 0; t < 400; ++t) c.logits.values[4 * t + 2] += 4;
  Sinkhorn<double> unbalanced = c;
  unbalanced.run(backend.ops(), 0, {0, 400});
  CHECK(largest_load(unbalanced.expert.values, 4) > 360);
  c.run(backend.ops(), 8, {0, 400});
  CHECK(largest_load(c.expert.values, 4) < 130);
}

TEST_CASE("Sinkhorn with logits far apart stays finite") {
  CpuBackend backend(1);
  Sinkhorn<float> c(4, 3, 1, 1);
  c.logits.values = {1000, 0, -1000, 1000, 0, -1000, -5000, 3, 2, 900, 901, 0};
  c.run(backend.ops(), 8, {0, 4});
  for (const double factor : c.factor.values) CHECK((std::isfinite(factor) && factor > 0));
}

TEST_CASE("Sinkhorn in f32 and with several threads") {
  const auto run = [](Ops& ops, auto zero) {
    Sinkhorn<decltype(zero)> c(900, 16, 3, 4);
    c.run(ops, 5, {0, 900});
    return outputs(c.cost, c.sum, c.factor, c.expert);
  };
  check_f32(1e-6, run);
  check_thread_counts(run);
}
