// Router on CUDA: scores, choice, statistics, the balance loss and their gradient against the CPU.
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// Tokens [first_row, first_row + T) of S scopes of `rows_per_scope`.
struct Sizes {
  int64_t T, E, A, S, first_row, rows_per_scope;
};

// The largest number of experts; odd tails of warps; all experts chosen; one token; none; scopes
// that are cut, and one of which nothing is here; a scope of several pieces.
constexpr Sizes kSizes[] = {{21, 512, 16, 1, 0, 21}, {37, 33, 5, 2, 3, 20}, {12, 6, 6, 3, 0, 4},
                            {1, 2, 1, 1, 0, 1},      {0, 8, 2, 2, 5, 7},    {11, 64, 8, 4, 10, 10},
                            {300, 16, 3, 1, 0, 300}};

std::vector<RouterRule> rules_for(const Sizes& size) {
  std::vector<RouterRule> rules;
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    rules.push_back({.score = score, .normalize = false, .scale = 2.5});
    rules.push_back({.score = score});
    if (size.E % 8 == 0)
      rules.push_back({.score = score, .scale = 1.5, .num_groups = 4, .top_groups = 2});
  }
  return rules;
}

// All of the router, forward and backward, from the same logits in every dtype.
template <typename Real>
struct RouterCase {
  RouterCase(const Sizes& s, const RouterRule& rule_)
      : size(s),
        rule(rule_),
        logits(shared_random<Real>("logits", {s.T, s.E})),
        dweight(shared_random<Real>("dweight", {s.T, s.A})),
        bias(shared_random<double>("bias", {s.E}, 0.3)),
        probs({s.T, s.E}, kUnset<Real>),
        lse({s.T}, kUnset<Real>),
        score({s.T, s.A}, kUnset<Real>),
        weight({s.T, s.A}, kUnset<Real>),
        dlogits({s.T, s.E}, kUnset<Real>),
        expert({s.T, s.A}, -7) {}

  Outputs forward(Ops& ops, Placement& place, bool has_bias, bool expert_is_given = false) {
    Tensor p = place(probs), l = place(lse), e = place(expert), s = place(score), w = place(weight);
    HostTensor<double> z_sum({1}, 0.5), entropy_sum({1}, 0.75);
    Tensor z = place(z_sum), entropy = place(entropy_sum);
    ops.router_forward(kQueue, p, l, e, s, w, z, entropy, place(logits),
                       has_bias ? place(bias) : Tensor(), rule, expert_is_given);
    place.fetch(probs, p);
    place.fetch(lse, l);
    place.fetch(expert, e);
    place.fetch(score, s);
    place.fetch(weight, w);
    place.fetch(z_sum, z);
    place.fetch(entropy_sum, entropy);
    return outputs(probs, lse, expert, score, weight, z_sum, entropy_sum);
  }

  Outputs losses(Ops& ops, Placement& place) {
    HostTensor<double> count({size.S, size.E}, kUnset<double>), prob_sum = count, gradient = count;
    HostTensor<double> loss_sum({1}, 0.25);
    Tensor c = place(count), p = place(prob_sum), g = place(gradient), loss = place(loss_sum);
    Tensor e = place(expert), all_probs = place(probs), dl = place(dlogits);
    ops.router_statistics(kQueue, c, p, e, all_probs, rule.score, size.first_row,
                          size.rows_per_scope);
    ops.balance_loss(kQueue, loss, g, c, p, size.rows_per_scope, 2 * size.rows_per_scope, size.A);
    ops.router_backward(kQueue, dl, place(dweight), e, place(weight), all_probs, place(lse),
                        rule.score == RouterScore::kSigmoid ? place(logits) : Tensor(), g, rule,
                        size.first_row, size.rows_per_scope, 0.3, 0.2);
    place.fetch(count, c);
    place.fetch(prob_sum, p);
    place.fetch(gradient, g);
    place.fetch(loss_sum, loss);
    place.fetch(dlogits, dl);
    return outputs(count, prob_sum, gradient, loss_sum, dlogits);
  }

  Sizes size;
  RouterRule rule;
  HostTensor<Real> logits, dweight;
  HostTensor<double> bias;
  HostTensor<Real> probs, lse, score, weight, dlogits;
  HostTensor<int32_t> expert;
};

Outputs joined(Outputs a, const Outputs& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// What is chosen on the CPU in f64, on CUDA in f64 and in f32.
std::vector<std::vector<double>> choices(const Sizes& size, const RouterRule& rule,
                                         const std::vector<double>& logits) {
  const auto choose = [&](Ops& ops, Placement& place, auto zero) {
    RouterCase<decltype(zero)> c(size, rule);
    for (size_t i = 0; i < logits.size(); ++i)
      c.logits.values[i] = static_cast<decltype(zero)>(logits[i]);
    return c.forward(ops, place, false)[2].values;
  };
  CpuBackend cpu(1);
  Placement host(nullptr);
  CudaDevice device(0);
  CudaOps ops(device);
  Placement there(device.stream({}));
  return {choose(cpu.ops(), host, double{}), choose(ops, there, double{}),
          choose(ops, there, float{})};
}

}  // namespace

TEST_CASE("router on CUDA against the CPU") {
  bool has_bias = false;
  for (const Sizes& s : kSizes)
    for (const RouterRule& rule : rules_for(s)) {
      has_bias = !has_bias;
      CAPTURE(s.T, s.E, s.A, s.S, has_bias, rule.num_groups, rule.normalize);
      CAPTURE(static_cast<int>(rule.score));
      check_on_cuda(3e-6, [&](Ops& ops, Placement& place, auto zero) {
        RouterCase<Compute<decltype(zero)>> c(s, rule);
        const Outputs forward = c.forward(ops, place, has_bias);
        return joined(forward, c.losses(ops, place));
      });
    }
}

TEST_CASE("router on CUDA: more tokens than warps of a launch") {
  const auto run = [](Ops& ops, Placement& place, auto zero) {
    RouterCase<decltype(zero)> c({8195, 5, 3, 1, 0, 8195}, {});
    return c.forward(ops, place, false);
  };
  CpuBackend cpu(1);
  CudaDevice device(0);
  CudaOps ops(device);
  Placement host(nullptr), there(device.stream({}));
  const Outputs expected = run(cpu.ops(), host, double{}), actual = run(ops, there, float{});
  for (size_t i = 0; i < expected.size(); ++i) {
    INFO("output " << i);
    CHECK(relative_error(actual[i].values, expected[i].values) <= 3e-6);
  }
}

TEST_CASE("router on CUDA: more experts than shared memory of one warp") {
  check_on_cuda(3e-6, [&](Ops& ops, Placement& place, auto zero) {
    RouterCase<Compute<decltype(zero)>> c({3, 6200, 4, 1, 0, 3}, {});
    const Outputs forward = c.forward(ops, place, true);
    return joined(forward, c.losses(ops, place));
  });
}

TEST_CASE("router on CUDA: a given choice is kept") {
  check_on_cuda(3e-6, [&](Ops& ops, Placement& place, auto zero) {
    RouterCase<Compute<decltype(zero)>> c({12, 8, 2, 3, 0, 4}, {});
    for (size_t i = 0; i < c.expert.values.size(); ++i)
      c.expert.values[i] = static_cast<int32_t>((5 * 2 + i) % 8);
    const std::vector<int32_t> given = c.expert.values;
    const Outputs forward = c.forward(ops, place, false, true);
    CHECK(c.expert.values == given);
    return joined(forward, c.losses(ops, place));
  });
}

TEST_CASE("router on CUDA: all tokens choose the same experts") {
  check_on_cuda(3e-6, [&](Ops& ops, Placement& place, auto zero) {
    RouterCase<Compute<decltype(zero)>> c({200, 40, 2, 1, 0, 200}, {});
    for (size_t t = 0; t < 200; ++t) c.logits.values[40 * t + 39] = c.logits.values[40 * t] = 9;
    const Outputs forward = c.forward(ops, place, false);
    for (size_t t = 0; t < 200; ++t)
      CHECK((c.expert.values[2 * t] == 0 && c.expert.values[2 * t + 1] == 39));
    return joined(forward, c.losses(ops, place));
  });
}

TEST_CASE("router on CUDA: among equal experts and groups the lower index wins") {
  const std::vector<double> logits = {0, 0, 0, 0, 0, 0, 0,  0,  1, 2, 1,  2,   1, 2,   1, 2,
                                      0, 0, 0, 0, 1, 1, -1, -1, 0, 0, 99, 99,  0, -99, 0, -99,
                                      0, 1, 1, 0, 1, 0, 0,  1,  2, 0, 0,  500, 0, 500, 0, -500};
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid})
    for (const int64_t groups : {1, 2, 4}) {
      CAPTURE(groups, static_cast<int>(score));
      const auto chosen = choices({6, 8, 3, 1, 0, 6},
                                  {.score = score, .num_groups = groups, .top_groups = 2}, logits);
      CHECK(chosen[1] == chosen[0]);
      CHECK(chosen[2] == chosen[0]);
    }
}

TEST_CASE("router on CUDA: logits that are not numbers choose as on the CPU") {
  const double nan = kUnset<double>;
  const std::vector<double> logits = {nan, 1, 2,   3,   -1, 0,         nan,      4,    //
                                      1,   2, nan, nan, 3,  nan,       nan,      1,    //
                                      nan, 1, nan, 0,   2,  nan,       nan,      nan,  //
                                      nan, 1, 2,   nan, 0,  -INFINITY, INFINITY, 1};
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid})
    for (const int64_t groups : {1, 2, 4}) {
      CAPTURE(groups, static_cast<int>(score));
      const auto chosen = choices({4, 8, 3, 1, 0, 4},
                                  {.score = score, .num_groups = groups, .top_groups = 2}, logits);
      CHECK(chosen[1] == chosen[0]);
      CHECK(chosen[2] == chosen[0]);
    }
}

TEST_CASE("router on CUDA: logits far from zero, sigmoids that underflow or saturate") {
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid})
    for (const double shift : {-1000.0, -100.0, -60.0, 1000.0}) {
      CAPTURE(shift, static_cast<int>(score));
      CudaDevice device(0);
      CudaOps ops(device);
      Placement place(device.stream({}));
      RouterCase<float> c({5, 4, 2, 1, 0, 5}, {.score = score});
      c.logits.values.assign(20, static_cast<float>(shift));
      const Outputs forward = c.forward(ops, place, false);
      for (const Output& output : joined(forward, c.losses(ops, place)))
        for (const double value : output.values) CHECK(std::isfinite(value));
    }
}
