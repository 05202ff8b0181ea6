// Router: softmax, top-k, statistics and auxiliary losses, and the gradient of all of it.
#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t T, E, A, S;
};

template <typename Real>
struct RouterCase {
  RouterCase(Sizes s, bool normalize_)
      : size(s),
        normalize(normalize_),
        logits(shared_random<Real>("logits", {s.T, s.E})),
        dweight(shared_random<Real>("dweight", {s.T, s.A})),
        probs({s.T, s.E}, kUnset<Real>),
        lse({s.T}, kUnset<Real>),
        score({s.T, s.A}, kUnset<Real>),
        weight({s.T, s.A}, kUnset<Real>),
        dlogits({s.T, s.E}, kUnset<Real>),
        expert({s.T, s.A}, -7),
        z_sum({1}, 0.5),
        loss_sum({1}, 0.25),
        count({s.S, s.E}, kUnset<double>),
        prob_sum({s.S, s.E}, kUnset<double>),
        prob_gradient({s.S, s.E}, kUnset<double>) {}

  void forward(Ops& ops) {
    ops.router_forward(kQueue, probs, lse, expert, score, weight, z_sum, logits, normalize,
                       expert_is_given);
    ops.router_statistics(kQueue, count, prob_sum, expert, probs, 0, size.T / size.S);
    ops.balance_loss(kQueue, loss_sum, prob_gradient, count, prob_sum, size.T / size.S, size.A);
  }
  void backward(Ops& ops) {
    ops.router_backward(kQueue, dlogits, dweight, expert, weight, probs, lse, prob_gradient, 0,
                        size.T / size.S, balance_scale, z_scale, normalize);
  }

  Sizes size;
  bool normalize;
  bool expert_is_given = false;
  double balance_scale = 0.3, z_scale = 0.2;
  HostTensor<Real> logits, dweight, probs, lse, score, weight, dlogits;
  HostTensor<int32_t> expert;
  HostTensor<double> z_sum, loss_sum, count, prob_sum, prob_gradient;
};

constexpr Sizes kSizes[] = {{1, 1, 1, 1}, {12, 8, 2, 3}, {12, 5, 5, 1}, {900, 16, 3, 4}};

// All of the forward pass again; the choice by sorting all experts.
struct Naive {
  explicit Naive(const RouterCase<double>& c) {
    const auto [T, E, A, S] = c.size;
    count.assign(static_cast<size_t>(S * E), 0);
    prob_sum = count;
    for (int64_t t = 0; t < T; ++t) {
      double total = 0;
      for (int64_t e = 0; e < E; ++e) total += std::exp(c.logits.values[t * E + e]);
      for (int64_t e = 0; e < E; ++e) probs.push_back(std::exp(c.logits.values[t * E + e]) / total);
      lse.push_back(std::log(total));
      z_sum += lse.back() * lse.back();
      std::vector<int32_t> order(static_cast<size_t>(E));
      std::iota(order.begin(), order.end(), 0);
      const double* p = probs.data() + t * E;
      std::stable_sort(order.begin(), order.end(), [p](int a, int b) { return p[a] > p[b]; });
      order.resize(static_cast<size_t>(A));
      double scores = 0;
      for (const int32_t e : order) scores += p[e];
      for (const int32_t e : order) {
        expert.push_back(e);
        score.push_back(p[e]);
        weight.push_back(p[e] / (c.normalize ? scores : 1));
        count[t * S / T * E + e] += 1;
      }
      for (int64_t e = 0; e < E; ++e) prob_sum[t * S / T * E + e] += p[e];
    }
    const double n = static_cast<double>(T) / static_cast<double>(S);
    for (size_t i = 0; i < count.size(); ++i) {
      prob_gradient.push_back(static_cast<double>(E) * count[i] / static_cast<double>(A) / n / n);
      balance += prob_gradient.back() * prob_sum[i];
    }
  }

  std::vector<double> probs, lse, score, weight, count, prob_sum, prob_gradient;
  std::vector<int32_t> expert;
  double z_sum = 0.5, balance = 0.25;
};

}  // namespace

TEST_CASE("router against plain loops") {
  for (const int threads : {1, 3}) {
    CpuBackend backend(threads);
    for (const Sizes& s : kSizes)
      for (const bool normalize : {false, true}) {
        INFO("T " << s.T << " E " << s.E << " A " << s.A << " S " << s.S);
        RouterCase<double> c(s, normalize);
        const Naive naive(c);
        c.forward(backend.ops());
        CHECK(relative_error(c.probs.values, naive.probs) <= 1e-14);
        CHECK(relative_error(c.lse.values, naive.lse) <= 1e-14);
        CHECK(c.expert.values == naive.expert);
        CHECK(relative_error(c.score.values, naive.score) <= 1e-14);
        CHECK(relative_error(c.weight.values, naive.weight) <= 1e-14);
        CHECK_THAT(c.z_sum.values[0], Catch::Matchers::WithinRel(naive.z_sum, 1e-14));
        CHECK(c.count.values == naive.count);
        CHECK(relative_error(c.prob_sum.values, naive.prob_sum) <= 1e-14);
        CHECK(relative_error(c.prob_gradient.values, naive.prob_gradient) <= 1e-14);
        CHECK_THAT(c.loss_sum.values[0], Catch::Matchers::WithinRel(naive.balance, 1e-14));
      }
  }
}

TEST_CASE("among equal experts the lower index wins, in both dtypes") {
  const auto run = [](auto zero) {
    CpuBackend backend(1);
    RouterCase<decltype(zero)> c({4, 6, 3, 1}, true);
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

TEST_CASE("logits that are not numbers still choose valid experts, and show in the weights") {
  CpuBackend backend(1);
  RouterCase<float> c({2, 4, 2, 1}, true);
  c.logits.values = {kUnset<float>, 1, 2, 3, 1, 2, kUnset<float>, 3};
  c.forward(backend.ops());
  for (size_t t = 0; t < 2; ++t) {
    const int32_t first = c.expert.values[2 * t], second = c.expert.values[2 * t + 1];
    CHECK((first >= 0 && first < 4 && second >= 0 && second < 4 && first != second));
    CHECK(std::isnan(c.weight.values[2 * t]));
  }
  CHECK(std::isnan(c.z_sum.values[0]));
}

TEST_CASE("large logits do not overflow") {
  CpuBackend backend(1);
  RouterCase<float> c({1, 4, 2, 1}, false);
  c.logits.values = {1000, 1001, -1000, 0};
  c.forward(backend.ops());
  CHECK(c.expert.values == std::vector<int32_t>{1, 0});
  CHECK_THAT(static_cast<double>(c.lse.values[0]),
             Catch::Matchers::WithinRel(1001 + std::log(1 + std::exp(-1.0)), 1e-7));
  CHECK(relative_error(c.weight.values, std::vector<double>{0.7310585786, 0.2689414214}) <= 1e-6);
}

TEST_CASE("a given choice is kept, and its probabilities are returned") {
  CpuBackend backend(1);
  RouterCase<double> free({12, 8, 2, 3}, true), forced({12, 8, 2, 3}, true);
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

TEST_CASE("balance loss is one when every expert has the same load and probability") {
  CpuBackend backend(1);
  RouterCase<double> c({8, 4, 2, 2}, true);
  std::fill(c.logits.values.begin(), c.logits.values.end(), 0.0);
  c.expert_is_given = true;
  backend.ops().balanced_choice(kQueue, c.expert, 0, 4);
  c.forward(backend.ops());
  CHECK_THAT(c.loss_sum.values[0] - 0.25, Catch::Matchers::WithinRel(2.0, 1e-14));  // two scopes
}

TEST_CASE("gradient of the router: weights, balance loss and z-loss, alone and together") {
  CpuBackend backend(1);
  for (const bool normalize : {false, true})
    for (const int losses : {1, 2, 4, 7}) {
      INFO((normalize ? "normalised, losses " : "losses ") << losses);
      RouterCase<double> c({12, 5, 2, 3}, normalize);
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
  for (const bool normalize : {false, true}) {
    const auto run = [normalize](Ops& ops, auto zero) {
      RouterCase<decltype(zero)> c({900, 16, 3, 4}, normalize);
      c.forward(ops);
      c.backward(ops);
      return outputs(c.probs, c.lse, c.expert, c.score, c.weight, c.z_sum, c.count, c.prob_sum,
                     c.prob_gradient, c.loss_sum, c.dlogits);
    };
    check_f32(1e-6, run);
    check_thread_counts(run);
  }
}

TEST_CASE("statistics and gradients of pieces of the rows are those of the whole") {
  CpuBackend backend(3);
  RouterCase<double> whole({900, 16, 3, 4}, true);
  whole.forward(backend.ops());
  whole.backward(backend.ops());
  const auto [T, E, A, S] = whole.size;
  std::vector<double> count(whole.count.values.size()), prob_sum(count), dlogits;
  for (const auto& [begin, end] :
       {std::pair<int64_t, int64_t>{0, 100}, {100, 100}, {100, 650}, {650, 900}}) {
    const int64_t rows = end - begin;
    const auto piece = [&](Tensor tensor) { return tensor.rows(begin, rows); };
    HostTensor<double> piece_count({S, E}, kUnset<double>), piece_sum({S, E}, kUnset<double>);
    HostTensor<double> piece_dlogits({rows, E}, kUnset<double>);
    backend.ops().router_statistics(kQueue, piece_count, piece_sum, piece(whole.expert),
                                    piece(whole.probs), begin, T / S);
    backend.ops().router_backward(kQueue, piece_dlogits, piece(whole.dweight), piece(whole.expert),
                                  piece(whole.weight), piece(whole.probs), piece(whole.lse),
                                  whole.prob_gradient, begin, T / S, whole.balance_scale,
                                  whole.z_scale, true);
    for (size_t i = 0; i < count.size(); ++i) {
      count[i] += piece_count.values[i];
      prob_sum[i] += piece_sum.values[i];
    }
    dlogits.insert(dlogits.end(), piece_dlogits.values.begin(), piece_dlogits.values.end());
  }
  CHECK(count == whole.count.values);
  CHECK(relative_error(prob_sum, whole.prob_sum.values) <= 1e-14);
  CHECK(dlogits == whole.dlogits.values);
}
