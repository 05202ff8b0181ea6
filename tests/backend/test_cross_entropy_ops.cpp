// Cross-entropy: the loss, and the gradient that replaces the logits.
#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

template <typename Real>
struct LossCase {
  // The vocabulary is cut into `num_slices`, as tensor-parallel ranks would hold it.
  LossCase(int64_t T_, int64_t V_, double std = 3, int64_t num_slices = 1)
      : T(T_),
        V(V_),
        P(num_slices),
        logits(shared_random<Real>("logits", {T, V}, std)),
        target({T}),
        scalars({kNumStepScalars}, kUnset<double>),
        loss_sum({1}, 0.5) {  // it is added to what is there
    int64_t num_targets = 0;
    for (int64_t t = 0; t < T; ++t) {
      const bool is_ignored = t % 4 == 1;
      target.values[static_cast<size_t>(t)] =
          is_ignored ? kIgnoredTarget : static_cast<int32_t>((t * 7 + V - 1) % V);
      num_targets += !is_ignored;
    }
    scalars.values[static_cast<size_t>(StepScalar::kInverseTargetCount)] =
        num_targets == 0 ? 0 : 1.0 / static_cast<double>(num_targets);
  }

  double inverse_count() const {
    return scalars.values[static_cast<size_t>(StepScalar::kInverseTargetCount)];
  }
  void loss(Ops& ops) { run(ops, false); }
  void loss_and_gradient(Ops& ops) { run(ops, true); }

  int64_t first_id(int64_t p) const { return std::min(V, (V + P - 1) / P * p); }

  // Copies the columns of slice p from or to the whole.
  template <typename Copy>
  void for_each_column(int64_t p, const Copy& copy) {
    const int64_t begin = first_id(p), end = first_id(p + 1);
    for (int64_t t = 0; t < T; ++t)
      for (int64_t v = begin; v < end; ++v)
        copy(static_cast<size_t>(t * (end - begin) + v - begin), static_cast<size_t>(t * V + v));
  }

  void run(Ops& ops, bool want_gradient) {
    std::vector<HostTensor<Real>> slices;
    HostTensor<double> statistics({P, T, 3}, kUnset<double>);
    for (int64_t p = 0; p < P; ++p) {
      slices.emplace_back(std::initializer_list<int64_t>{T, first_id(p + 1) - first_id(p)});
      auto& slice = slices.back();
      for_each_column(p, [&](size_t i, size_t j) { slice.values[i] = logits.values[j]; });
      ops.softmax_statistics(kQueue, statistics.view().rows(p, 1).reshape({T, 3}), slice, target,
                             first_id(p), V);
    }
    // Every slice's rank owns some of the rows; together all.
    for (int64_t p = 0; p < P; ++p)
      ops.cross_entropy_loss(kQueue, loss_sum, statistics, target, T * p / P,
                             T * (p + 1) / P - T * p / P);
    for (int64_t p = 0; want_gradient && p < P; ++p) {
      auto& slice = slices[static_cast<size_t>(p)];
      ops.cross_entropy_gradient(kQueue, slice, statistics, target, first_id(p), scalars);
      for_each_column(p, [&](size_t i, size_t j) { logits.values[j] = slice.values[i]; });
    }
  }

  int64_t T, V, P;
  HostTensor<Real> logits;
  HostTensor<int32_t> target;
  HostTensor<double> scalars, loss_sum;
};

struct Naive {
  double loss_sum = 0.5;
  std::vector<double> gradient;
};

Naive naive_loss(const LossCase<double>& c) {
  Naive result;
  for (int64_t t = 0; t < c.T; ++t) {
    const auto row = c.logits.values.begin() + t * c.V;
    const int32_t target = c.target.values[static_cast<size_t>(t)];
    const double largest = *std::max_element(row, row + c.V);
    double total = 0;
    for (int64_t v = 0; v < c.V; ++v) total += std::exp(row[v] - largest);
    if (target != kIgnoredTarget) result.loss_sum += largest + std::log(total) - row[target];
    for (int64_t v = 0; v < c.V; ++v)
      result.gradient.push_back(target == kIgnoredTarget
                                    ? 0
                                    : (std::exp(row[v] - largest) / total - (v == target)) *
                                          c.inverse_count());
  }
  return result;
}

}  // namespace

TEST_CASE("cross-entropy against plain loops") {
  for (const int threads : {1, 3}) {
    CpuBackend backend(threads);
    for (const int64_t V : {1, 2, 50, 257})
      for (const double std : {3.0, 300.0}) {
        for (const int64_t slices : {1, 2, 3}) {
          LossCase<double> only_loss(301, V, std, slices), both(301, V, std, slices);
          const Naive naive = naive_loss(both);
          const std::vector<double> logits = both.logits.values;
          only_loss.loss(backend.ops());
          both.loss_and_gradient(backend.ops());
          CHECK_THAT(both.loss_sum.values[0], Catch::Matchers::WithinRel(naive.loss_sum, 1e-13));
          CHECK(only_loss.loss_sum.values == both.loss_sum.values);
          CHECK(only_loss.logits.values == logits);
          CHECK(relative_error(both.logits.values, naive.gradient) <= 1e-13);
        }
      }
  }
}

TEST_CASE("gradient of cross-entropy is that of the mean over targets") {
  CpuBackend backend(1);
  LossCase<double> c(9, 6), analytic(9, 6);
  analytic.loss_and_gradient(backend.ops());
  check_gradient("logits", c.logits, analytic.logits.values, [&] {
    c.loss_sum.values[0] = 0;
    c.loss(backend.ops());
    return c.loss_sum.values[0] * c.inverse_count();
  });
}

TEST_CASE("cross-entropy in f32 and with several threads") {
  const auto run = [](Ops& ops, auto zero) {
    LossCase<decltype(zero)> c(400, 257);
    c.loss_and_gradient(ops);
    return outputs(c.loss_sum, c.logits);
  };
  check_f32(1e-6, run);
  check_thread_counts(run);
}

TEST_CASE("a batch in which no target counts has no loss and no gradient") {
  CpuBackend backend(1);
  LossCase<float> c(3, 5);
  std::fill(c.target.values.begin(), c.target.values.end(), kIgnoredTarget);
  std::fill(c.logits.values.begin(), c.logits.values.end(), kUnset<float>);
  c.scalars.values[static_cast<size_t>(StepScalar::kInverseTargetCount)] = 0;
  c.loss_and_gradient(backend.ops());
  CHECK(c.loss_sum.values[0] == 0.5);
  CHECK(c.logits.values == std::vector<float>(15, 0.0f));
}

TEST_CASE("a logit that is not a number reaches the loss") {
  CpuBackend backend(1);
  LossCase<float> c(3, 40);
  c.logits.values[20] = kUnset<float>;
  c.loss(backend.ops());
  CHECK(std::isnan(c.loss_sum.values[0]));
}

TEST_CASE("a target outside the vocabulary is an error, not a crash of a thread") {
  CpuBackend backend(4);
  for (const int32_t target : {-1, 257, -99}) {
    LossCase<float> c(400, 257);
    c.target.values.back() = target;
    const std::string message = fmt::format("target {} outside a vocabulary of 257", target);
    CHECK_THROWS_WITH(c.loss(backend.ops()), contains_text(message));
    CHECK_THROWS_WITH(c.loss_and_gradient(backend.ops()), contains_text(message));
  }
}
