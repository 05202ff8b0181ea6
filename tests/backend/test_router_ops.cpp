// Router: scores, choice, statistics and auxiliary losses, and the gradient of all of it.
#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t T, E, A, S;
};

constexpr RouterRule kPlain = {.normalize = false};
constexpr RouterRule kNormalised = {};

template <typename Real>
struct RouterCase {
  explicit RouterCase(Sizes s, const RouterRule& rule_ = kNormalised, bool has_bias_ = false)
      : size(s),
        rule(rule_),
        has_bias(has_bias_),
        logits(shared_random<Real>("logits", {s.T, s.E})),
        dweight(shared_random<Real>("dweight", {s.T, s.A})),
        probs({s.T, s.E}, kUnset<Real>),
        lse({s.T}, kUnset<Real>),
        score({s.T, s.A}, kUnset<Real>),
        weight({s.T, s.A}, kUnset<Real>),
        dlogits({s.T, s.E}, kUnset<Real>),
        expert({s.T, s.A}, -7),
        bias(shared_random<double>("bias", {s.E}, 0.3)),
        z_sum({1}, 0.5),
        entropy_sum({1}, 0.75),
        loss_sum({1}, 0.25),
        count({s.S, s.E}, kUnset<double>),
        prob_sum({s.S, s.E}, kUnset<double>),
        prob_gradient({s.S, s.E}, kUnset<double>) {}

  int64_t tokens_per_scope() const { return size.T / size.S; }
  void forward(Ops& ops) {
    ops.router_forward(kQueue, probs, lse, expert, score, weight, z_sum, entropy_sum, logits,
                       has_bias ? bias.view() : Tensor(), rule, expert_is_given);
    ops.router_statistics(kQueue, count, prob_sum, expert, probs, rule.score, 0,
                          tokens_per_scope());
    ops.balance_loss(kQueue, loss_sum, prob_gradient, count, prob_sum, tokens_per_scope(),
                     tokens_per_scope(), size.A);
  }
  void backward(Ops& ops) {
    ops.router_backward(kQueue, dlogits, dweight, expert, weight, probs, lse,
                        rule.score == RouterScore::kSigmoid ? logits.view() : Tensor(),
                        prob_gradient, rule, 0, tokens_per_scope(), balance_scale, z_scale);
  }

  Sizes size;
  RouterRule rule;
  bool has_bias;
  bool expert_is_given = false;
  double balance_scale = 0.3, z_scale = 0.2;
  HostTensor<Real> logits, dweight, probs, lse, score, weight, dlogits;
  HostTensor<int32_t> expert;
  HostTensor<double> bias, z_sum, entropy_sum, loss_sum, count, prob_sum, prob_gradient;
};

constexpr Sizes kSizes[] = {{1, 2, 1, 1}, {12, 8, 2, 3}, {12, 6, 6, 1}, {900, 16, 3, 4}};

// The rules of a router with `size.E` experts.
std::vector<RouterRule> rules_for(const Sizes& size) {
  std::vector<RouterRule> rules;
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid})
    for (const bool normalize : {false, true}) {
      rules.push_back({.score = score, .normalize = normalize, .scale = normalize ? 1 : 2.5});
      if (size.E >= 8)
        rules.push_back({.score = score,
                         .normalize = normalize,
                         .scale = 1.5,
                         .num_groups = 4,
                         .top_groups = 2});
    }
  return rules;
}

// All of the forward pass again; the choice by sorting all experts that groups allow.
struct Naive {
  explicit Naive(const RouterCase<double>& c) {
    const auto [T, E, A, S] = c.size;
    const bool is_sigmoid = c.rule.score == RouterScore::kSigmoid;
    count.assign(static_cast<size_t>(S * E), 0);
    prob_sum = count;
    for (int64_t t = 0; t < T; ++t) {
      const double* logits = c.logits.values.data() + t * E;
      double total = 0, sigmoids = 0;
      for (int64_t e = 0; e < E; ++e) {
        total += std::exp(logits[e]);
        sigmoids += 1 / (1 + std::exp(-logits[e]));
      }
      for (int64_t e = 0; e < E; ++e)
        probs.push_back(is_sigmoid ? 1 / (1 + std::exp(-logits[e])) : std::exp(logits[e]) / total);
      lse.push_back(std::log(total));
      z_sum += lse.back() * lse.back();
      const double* s = probs.data() + t * E;
      choose(c, s);
      const int32_t* chosen = expert.data() + t * A;
      double scores = 0;
      for (int64_t a = 0; a < A; ++a) scores += s[chosen[a]];
      for (int64_t a = 0; a < A; ++a) {
        score.push_back(s[chosen[a]]);
        weight.push_back(c.rule.scale * s[chosen[a]] / (c.rule.normalize ? scores : 1));
        count[t * S / T * E + chosen[a]] += 1;
      }
      for (int64_t e = 0; e < E; ++e) {
        const double p = is_sigmoid ? s[e] / sigmoids : s[e];
        prob_sum[t * S / T * E + e] += p;
        entropy_sum -= p * std::log(p);
      }
    }
    const double n = static_cast<double>(T) / static_cast<double>(S);
    for (size_t i = 0; i < count.size(); ++i) {
      prob_gradient.push_back(static_cast<double>(E) * count[i] / static_cast<double>(A) / n / n);
      balance += prob_gradient.back() * prob_sum[i];
    }
  }

  void choose(const RouterCase<double>& c, const double* s) {
    const int64_t E = c.size.E, size = E / c.rule.num_groups;
    const auto key = [&](int64_t e) { return s[e] + (c.has_bias ? c.bias.values[e] : 0); };
    std::vector<double> of_group;
    for (int64_t g = 0; g < c.rule.num_groups; ++g) {
      double best = -INFINITY;  // the largest sum of any two
      for (int64_t i = g * size; i < (g + 1) * size; ++i)
        for (int64_t j = i + 1; j < (g + 1) * size; ++j) best = std::max(best, key(i) + key(j));
      of_group.push_back(best);
    }
    std::vector<int32_t> order;
    for (int32_t e = 0; e < E; ++e) {
      int64_t better = 0;  // groups ahead of this expert's
      for (int64_t g = 0; g < c.rule.num_groups; ++g)
        better += of_group[g] > of_group[e / size] ? 1 : 0;
      if (better < c.rule.top_groups) order.push_back(e);
    }
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return key(a) > key(b); });
    expert.insert(expert.end(), order.begin(), order.begin() + c.size.A);
  }

  std::vector<double> probs, lse, score, weight, count, prob_sum, prob_gradient;
  std::vector<int32_t> expert;
  double z_sum = 0.5, entropy_sum = 0.75, balance = 0.25;
};

std::string text_of(const RouterRule& rule) {
  return fmt::format("{}, normalize {}, scale {}, {} of {} groups",
                     rule.score == RouterScore::kSoftmax ? "softmax" : "sigmoid", rule.normalize,
                     rule.scale, rule.top_groups, rule.num_groups);
}

}  // namespace

TEST_CASE("router against plain loops") {
  for (const int threads : {1, 3}) {
    CpuBackend backend(threads);
    for (const Sizes& s : kSizes)
      for (const RouterRule& rule : rules_for(s))
        for (const bool has_bias : {false, true}) {
          INFO("T " << s.T << " E " << s.E << " A " << s.A << " S " << s.S << " bias " << has_bias);
          INFO(text_of(rule));
          RouterCase<double> c(s, rule, has_bias);
          const Naive naive(c);
          c.forward(backend.ops());
          CHECK(relative_error(c.probs.values, naive.probs) <= 1e-14);
          CHECK(relative_error(c.lse.values, naive.lse) <= 1e-14);
          CHECK(c.expert.values == naive.expert);
          CHECK(relative_error(c.score.values, naive.score) <= 1e-14);
          CHECK(relative_error(c.weight.values, naive.weight) <= 1e-14);
          CHECK_THAT(c.z_sum.values[0], Catch::Matchers::WithinRel(naive.z_sum, 1e-14));
          CHECK_THAT(c.entropy_sum.values[0], Catch::Matchers::WithinRel(naive.entropy_sum, 1e-13));
          CHECK(c.count.values == naive.count);
          CHECK(relative_error(c.prob_sum.values, naive.prob_sum) <= 1e-13);
          CHECK(relative_error(c.prob_gradient.values, naive.prob_gradient) <= 1e-14);
          CHECK_THAT(c.loss_sum.values[0], Catch::Matchers::WithinRel(naive.balance, 1e-13));
        }
  }
}

TEST_CASE("among equal experts the lower index wins, in both dtypes") {
  const auto run = [](auto zero) {
    CpuBackend backend(1);
    RouterCase<decltype(zero)> c({4, 6, 3, 1});
    c.logits.values = {0,  0,   0, 0,   0,  0,   // all equal
                       1,  2,   1, 2,   1,  2,   // two groups
                       -1, -1,  3, -1,  -1, -1,  //
                       0,  500, 0, 500, 0,  -500};
    c.forward(backend.ops());
    CHECK(c.expert.values == std::vector<int32_t>{0, 1, 2, 1, 3, 5, 2, 0, 1, 1, 3, 0});
  };
  run(float{});
  run(double{});
}

// Logits 0 and 2 have sigmoids of 0.5 and 0.88.
TEST_CASE("groups are judged by their two best, and the lower group wins a tie") {
  CpuBackend backend(1);
  const RouterRule rule = {
      .score = RouterScore::kSigmoid, .scale = 1, .num_groups = 3, .top_groups = 1};
  RouterCase<double> c({3, 9, 2, 1}, rule);
  c.logits.values = {2,  -9, -9, 0, 0, -9, -9, -9, -9,  // best single 0, best pair 1
                     -9, -9, -9, 0, 0, 0,  0,  0,  0,   // groups 1 and 2 alike
                     0,  0,  0,  2, 0, 0,  0,  0,  2};  // 1 and 2 alike, ahead of 0
  c.forward(backend.ops());
  CHECK(c.expert.values == std::vector<int32_t>{3, 4, 3, 4, 3, 4});
  c.rule.top_groups = 2;
  c.forward(backend.ops());
  CHECK(c.expert.values == std::vector<int32_t>{0, 3, 3, 4, 3, 8});
}

TEST_CASE("the bias moves the choice, not the weights") {
  CpuBackend backend(1);
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    RouterCase<double> c({1, 4, 2, 1}, {.score = score, .normalize = false}, true);
    c.logits.values = {2, 1, 0, -1};
    c.bias.values = {0, 0, 0, 0};
    c.forward(backend.ops());
    CHECK(c.expert.values == std::vector<int32_t>{0, 1});
    c.bias.values = {-1, 0, 0, 1};
    c.forward(backend.ops());
    CHECK(c.expert.values == std::vector<int32_t>{3, 1});
    CHECK(c.weight.values == std::vector<double>{c.probs.values[3], c.probs.values[1]});
    CHECK(c.score.values == c.weight.values);
  }
}

TEST_CASE("logits that are not numbers still choose valid experts, and show in the weights") {
  CpuBackend backend(1);
  for (const int64_t groups : {1, 2}) {
    RouterCase<float> c({2, 4, 2, 1}, {.num_groups = groups, .top_groups = 1});
    c.logits.values = {kUnset<float>, 1, 2, 3, 1, 2, kUnset<float>, 3};
    c.forward(backend.ops());
    for (size_t t = 0; t < 2; ++t) {
      const int32_t first = c.expert.values[2 * t], second = c.expert.values[2 * t + 1];
      CHECK((first >= 0 && first < 4 && second >= 0 && second < 4 && first != second));
      CHECK(std::isnan(c.weight.values[2 * t]));
    }
    CHECK(std::isnan(c.z_sum.values[0]));
  }
}

TEST_CASE("large logits do not overflow") {
  CpuBackend backend(1);
  RouterCase<float> c({1, 4, 2, 1}, kPlain);
  c.logits.values = {1000, 1001, -1000, 0};
  c.forward(backend.ops());
  CHECK(c.expert.values == std::vector<int32_t>{1, 0});
  CHECK_THAT(static_cast<double>(c.lse.values[0]),
             Catch::Matchers::WithinRel(1001 + std::log(1 + std::exp(-1.0)), 1e-7));
  CHECK(relative_error(c.weight.values, std::vector<double>{0.7310585786, 0.2689414214}) <= 1e-6);
}

TEST_CASE("sigmoids that underflow or saturate leave finite numbers") {
  CpuBackend backend(1);
  for (const float logit : {-1000.0f, -100.0f, -60.0f, 1000.0f}) {
    INFO("logit " << logit);
    RouterCase<float> c({1, 4, 2, 1}, {.score = RouterScore::kSigmoid});
    c.logits.values.assign(4, logit);
    c.forward(backend.ops());
    c.backward(backend.ops());
    for (const auto* values : {&c.weight.values, &c.dlogits.values})
      for (const float value : *values) CHECK(std::isfinite(value));
    CHECK(std::isfinite(c.loss_sum.values[0] + c.entropy_sum.values[0]));
  }
}

TEST_CASE("a given choice is kept, and its probabilities are returned") {
  CpuBackend backend(1);
  RouterCase<double> free({12, 8, 2, 3}), forced({12, 8, 2, 3});
  free.forward(backend.ops());
  forced.expert_is_given = true;
  backend.ops().balanced_choice(kQueue, forced.expert, 5, 8);
  const std::vector<int32_t> given = forced.expert.values;
  forced.forward(backend.ops());
  CHECK(forced.expert.values == given);
  CHECK(forced.probs.values == free.probs.values);
  for (size_t i = 0; i < given.size(); ++i) {
    const size_t row = i / 2 * 8, pair = i / 2 * 2;
    const double p = forced.probs.values[row + given[i]];
    const double other = forced.probs.values[row + given[pair + (1 - i % 2)]];
    CHECK(forced.score.values[i] == p);
    CHECK_THAT(forced.weight.values[i], Catch::Matchers::WithinRel(p / (p + other), 1e-14));
  }
}

TEST_CASE("balance loss and entropy of perfect balance") {
  CpuBackend backend(1);
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    RouterCase<double> c({8, 4, 2, 2}, {.score = score});
    std::fill(c.logits.values.begin(), c.logits.values.end(), -0.7);
    c.expert_is_given = true;
    backend.ops().balanced_choice(kQueue, c.expert, 0, 4);
    c.forward(backend.ops());
    CHECK_THAT(c.loss_sum.values[0] - 0.25, Catch::Matchers::WithinRel(2.0, 1e-14));  // two scopes
    CHECK_THAT(c.entropy_sum.values[0] - 0.75,
               Catch::Matchers::WithinRel(8 * std::log(4.0), 1e-14));
  }
}

// Counts of a step so far: the same shares of choices, counted over more tokens.
TEST_CASE("the balance loss of counts over more tokens than the scope's") {
  CpuBackend backend(1);
  RouterCase<double> c({12, 8, 2, 1});
  c.forward(backend.ops());
  HostTensor<double> loss({1}, 0.0), gradient({1, 8}, kUnset<double>), counts = c.count;
  for (double& count : counts.values) count *= 5;
  backend.ops().balance_loss(kQueue, loss, gradient, counts, c.prob_sum, 12, 60, 2);
  CHECK_THAT(loss.values[0], Catch::Matchers::WithinRel(c.loss_sum.values[0] - 0.25, 1e-14));
  CHECK(relative_error(gradient.values, c.prob_gradient.values) <= 1e-14);
}

TEST_CASE("gradient of the router: weights, balance loss and z-loss, alone and together") {
  CpuBackend backend(1);
  for (const RouterRule& rule : rules_for({12, 8, 2, 3}))
    for (const int losses : {1, 2, 4, 7}) {
      INFO(text_of(rule) << ", losses " << losses);
      RouterCase<double> c({12, 8, 2, 3}, rule, true);
      if (!(losses & 1)) std::fill(c.dweight.values.begin(), c.dweight.values.end(), 0.0);
      if (!(losses & 2)) c.balance_scale = 0;
      if (!(losses & 4)) c.z_scale = 0;
      c.forward(backend.ops());
      c.backward(backend.ops());
      c.expert_is_given = true;  // the choice is no function of the logits
      check_gradient("logits", c.logits, c.dlogits.values, [&] {
        c.z_sum.values[0] = c.loss_sum.values[0] = 0;
        c.forward(backend.ops());
        return dot(c.weight.values, c.dweight.values) + c.balance_scale * c.loss_sum.values[0] +
               c.z_scale * c.z_sum.values[0];
      });
    }
}

TEST_CASE("router in f32 and with several threads") {
  for (const RouterRule& rule : rules_for({900, 16, 3, 4})) {
    INFO(text_of(rule));
    const auto run = [&rule](Ops& ops, auto zero) {
      RouterCase<decltype(zero)> c({900, 16, 3, 4}, rule, true);
      c.forward(ops);
      c.backward(ops);
      return outputs(c.probs, c.lse, c.expert, c.score, c.weight, c.z_sum, c.entropy_sum, c.count,
                     c.prob_sum, c.prob_gradient, c.loss_sum, c.dlogits);
    };
    check_f32(1e-6, run);
    check_thread_counts(run);
  }
}

TEST_CASE("statistics and gradients of pieces of the rows are those of the whole") {
  CpuBackend backend(3);
  for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    RouterCase<double> whole({900, 16, 3, 4}, {.score = score});
    whole.forward(backend.ops());
    whole.backward(backend.ops());
    const auto [T, E, A, S] = whole.size;
    std::vector<double> count(whole.count.values.size()), prob_sum(count), dlogits;
    const std::pair<int64_t, int64_t> pieces[] = {{0, 100}, {100, 100}, {100, 650}, {650, 900}};
    for (const auto& range : pieces) {
      const int64_t begin = range.first, rows = range.second - range.first;
      const auto piece = [&](Tensor tensor) { return tensor.rows(begin, rows); };
      HostTensor<double> piece_count({S, E}, kUnset<double>), piece_sum({S, E}, kUnset<double>);
      HostTensor<double> piece_dlogits({rows, E}, kUnset<double>);
      backend.ops().router_statistics(kQueue, piece_count, piece_sum, piece(whole.expert),
                                      piece(whole.probs), score, begin, T / S);
      backend.ops().router_backward(kQueue, piece_dlogits, piece(whole.dweight),
                                    piece(whole.expert), piece(whole.weight), piece(whole.probs),
                                    piece(whole.lse), piece(whole.logits), whole.prob_gradient,
                                    whole.rule, begin, T / S, whole.balance_scale, whole.z_scale);
      for (size_t i = 0; i < count.size(); ++i) {
        count[i] += piece_count.values[i];
        prob_sum[i] += piece_sum.values[i];
      }
      dlogits.insert(dlogits.end(), piece_dlogits.values.begin(), piece_dlogits.values.end());
    }
    CHECK(count == whole.count.values);
    CHECK(relative_error(prob_sum, whole.prob_sum.values) <= 1e-13);
    CHECK(dlogits == whole.dlogits.values);
  }
}
