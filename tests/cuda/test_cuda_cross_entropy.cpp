// Cross-entropy on CUDA: statistics, loss, and the gradient that replaces the logits.
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t tokens, vocabulary;
};

// Copies the columns [begin, end) of `whole` (T, V) to `slice`, or back.
template <typename Real>
void copy_columns(HostTensor<Real>& whole, HostTensor<Real>& slice, Sizes s, int64_t begin,
                  int64_t end, bool back) {
  for (int64_t t = 0; t < s.tokens; ++t)
    for (int64_t v = begin; v < end; ++v) {
      Real& of_whole = whole.values[static_cast<size_t>(t * s.vocabulary + v)];
      Real& of_slice = slice.values[static_cast<size_t>(t * (end - begin) + v - begin)];
      (back ? of_whole : of_slice) = back ? of_slice : of_whole;
    }
}

HostTensor<double> scalars_for(double inverse_count) {
  HostTensor<double> scalars({kNumStepScalars}, kUnset<double>);
  scalars.values[static_cast<size_t>(StepScalar::kInverseTargetCount)] = inverse_count;
  return scalars;
}

HostTensor<int32_t> make_targets(int64_t T, int64_t V) {
  HostTensor<int32_t> target({T});
  for (int64_t t = 0; t < T; ++t)
    target.values[static_cast<size_t>(t)] =
        t % 4 == 1 ? kIgnoredTarget : static_cast<int32_t>((t * 7 + V - 1) % V);
  return target;
}

// The vocabulary in `num_slices`, some of which may be empty; the rows of the loss in two ranges.
// Outputs: loss, statistics (where the targets are elsewhere: 1, not -infinity), and the gradient.
template <typename Acc>
Outputs cross_entropy(Ops& ops, Placement& place, Sizes s, int64_t num_slices, double std) {
  const int64_t T = s.tokens, V = s.vocabulary, P = num_slices;
  const auto first_id = [&](int64_t p) { return std::min(V, (V + P - 1) / P * p); };
  auto logits = shared_random<Acc>("logits", {T, V}, std);
  auto target = make_targets(T, V);
  auto scalars = scalars_for(1.0 / 7);
  HostTensor<double> statistics({P, T, 3}, kUnset<double>), loss_sum({1}, 0.5);
  Tensor statistics_PT3 = place(statistics), target_T = place(target), loss = place(loss_sum),
         step = place(scalars);
  std::vector<HostTensor<Acc>> slices;
  std::vector<Tensor> there;
  for (int64_t p = 0; p < P; ++p) {
    slices.emplace_back(std::initializer_list<int64_t>{T, first_id(p + 1) - first_id(p)});
    copy_columns(logits, slices.back(), s, first_id(p), first_id(p + 1), false);
    there.push_back(place(slices.back()));
    ops.softmax_statistics(kQueue, statistics_PT3.rows(p, 1).reshape({T, 3}), there.back(),
                           target_T, first_id(p), V);
  }
  ops.cross_entropy_loss(kQueue, loss, statistics_PT3, target_T, 0, T / 3);
  ops.cross_entropy_loss(kQueue, loss, statistics_PT3, target_T, T / 3, T - T / 3);
  for (int64_t p = 0; p < P; ++p)
    ops.cross_entropy_gradient(kQueue, there[static_cast<size_t>(p)], statistics_PT3, target_T,
                               first_id(p), step);
  place.fetch(loss_sum, loss);
  place.fetch(statistics, statistics_PT3);
  for (double& value : statistics.values)
    if (value == -INFINITY) value = 1;
  for (int64_t p = 0; p < P; ++p) {
    auto& slice = slices[static_cast<size_t>(p)];
    place.fetch(slice, there[static_cast<size_t>(p)]);
    copy_columns(logits, slice, s, first_id(p), first_id(p + 1), true);
  }
  return outputs(loss_sum, statistics, logits);
}

}  // namespace

TEST_CASE("cross-entropy over slices of a vocabulary") {
  for (const Sizes& s :
       {Sizes{0, 8}, Sizes{1, 1}, Sizes{5, 3}, Sizes{6, 1028}, Sizes{40, 257}, Sizes{3, 5000}})
    for (const int64_t slices : {1, 2, 3})
      for (const double std : {3.0, 300.0}) {
        INFO(s.tokens << " tokens, vocabulary " << s.vocabulary << " in " << slices);
        check_on_cuda(1e-6, [&](Ops& ops, Placement& place, auto zero) {
          return cross_entropy<Compute<decltype(zero)>>(ops, place, s, slices, std);
        });
      }
}

TEST_CASE("logits of minus infinity have no share, in however many chunks") {
  check_on_cuda(1e-6, [](Ops& ops, Placement& place, auto zero) {
    using Acc = Compute<decltype(zero)>;
    auto logits = shared_random<Acc>("logits", {2, 3000});
    for (size_t i = 0; i < 2990; ++i) logits.values[i] = -static_cast<Acc>(INFINITY);
    auto target = host_tensor<int32_t>({2}, {2995, 0});
    auto scalars = scalars_for(0.5);
    HostTensor<double> statistics({2, 3}, kUnset<double>), loss_sum({1}, 0.0);
    Tensor statistics_T3 = place(statistics), logits_TV = place(logits), target_T = place(target),
           loss = place(loss_sum);
    ops.softmax_statistics(kQueue, statistics_T3, logits_TV, target_T, 0, 3000);
    const Tensor statistics_PT3 = statistics_T3.reshape({1, 2, 3});
    ops.cross_entropy_loss(kQueue, loss, statistics_PT3, target_T, 0, 2);
    ops.cross_entropy_gradient(kQueue, logits_TV, statistics_PT3, target_T, 0, place(scalars));
    place.fetch(statistics, statistics_T3);
    place.fetch(loss_sum, loss);
    place.fetch(logits, logits_TV);
    return outputs(statistics, loss_sum, logits);
  });
}

TEST_CASE("what is not a number, and a target outside the vocabulary, reach the loss") {
  CudaDevice device(0);
  CudaOps ops(device);
  const auto loss_of = [&](float logit, int32_t label) {
    Placement place(device.stream({}));
    HostTensor<float> logits({3, 600}, 0.25f);
    logits.values[620] = logit;
    auto target = host_tensor<int32_t>({3}, {5, 6, label});
    HostTensor<double> statistics({1, 3, 3}, kUnset<double>), loss_sum({1}, 0.0);
    Tensor statistics_PT3 = place(statistics), target_T = place(target), loss = place(loss_sum);
    ops.softmax_statistics(kQueue, statistics_PT3.reshape({3, 3}), place(logits), target_T, 0, 600);
    ops.cross_entropy_loss(kQueue, loss, statistics_PT3, target_T, 0, 3);
    place.fetch(loss_sum, loss);
    return loss_sum.values[0];
  };
  CHECK_THAT(loss_of(0.25f, 7), Catch::Matchers::WithinRel(3 * std::log(600.0), 1e-6));
  CHECK(std::isnan(loss_of(kUnset<float>, 7)));
  CHECK(std::isnan(loss_of(INFINITY, 7)));
  CHECK(loss_of(0.25f, 600) == INFINITY);
  CHECK(loss_of(0.25f, -1) == INFINITY);
}

TEST_CASE("a batch in which no target counts has no loss and no gradient") {
  CudaDevice device(0);
  CudaOps ops(device);
  Placement place(device.stream({}));
  HostTensor<float> logits({3, 5}, kUnset<float>);
  HostTensor<int32_t> target({3}, kIgnoredTarget);
  HostTensor<double> statistics({1, 3, 3}, kUnset<double>), loss_sum({1}, 0.5);
  auto scalars = scalars_for(0);
  Tensor statistics_PT3 = place(statistics), target_T = place(target), loss = place(loss_sum),
         logits_TV = place(logits);
  ops.softmax_statistics(kQueue, statistics_PT3.reshape({3, 3}), logits_TV, target_T, 0, 5);
  ops.cross_entropy_loss(kQueue, loss, statistics_PT3, target_T, 0, 3);
  ops.cross_entropy_gradient(kQueue, logits_TV, statistics_PT3, target_T, 0, place(scalars));
  place.fetch(loss_sum, loss);
  place.fetch(logits, logits_TV);
  CHECK(loss_sum.values[0] == 0.5);
  CHECK(logits.values == std::vector<float>(15, 0.0f));
}
