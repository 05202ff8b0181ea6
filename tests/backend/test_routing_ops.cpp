// What changes the router's choice or input: forced balance, jitter, capacity; and the load.
#include <set>

#include "backend/op_checks.h"
#include "core/random.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// Tokens that crowd into few experts, with scores of which many are equal.
struct CapacityCase {
  CapacityCase(int64_t T_, int64_t A_, int64_t E_, int64_t S_)
      : T(T_), A(A_), E(E_), S(S_), expert({T, A}), kept({T, A}, -7), score({T, A}) {
    const uint64_t key = random_key(7, "capacity");
    for (int64_t t = 0; t < T; ++t) {
      std::set<int32_t> taken;
      for (int64_t a = 0; a < A; ++a) {
        const auto i = static_cast<size_t>(t * A + a);
        const auto u = random_uniform(key, i);
        auto e = static_cast<int32_t>(u * u * static_cast<double>(E));
        while (!taken.insert(e).second) e = static_cast<int32_t>((e + 1) % E);
        expert.values[i] = e;
        score.values[i] = static_cast<float>(std::floor(8 * random_uniform(key, i, 1)) / 8);
      }
    }
  }

  std::vector<int32_t> drop(Ops& ops, int64_t capacity, DropOrder order) {
    ops.drop_tokens(kQueue, kept, expert, score, E, S, capacity, order);
    return kept.values;
  }

  // A choice is kept if fewer than `capacity` choices of its expert and scope come before it.
  std::vector<int32_t> naive_drop(int64_t capacity, DropOrder order) const {
    std::vector<int32_t> result = expert.values;
    const auto comes_before = [&](int64_t i, int64_t j) {
      if (order == DropOrder::kPosition) return i % A != j % A ? i % A < j % A : i / A < j / A;
      const float si = score.values[static_cast<size_t>(i)];
      const float sj = score.values[static_cast<size_t>(j)];
      return si != sj ? si > sj : i / A < j / A;
    };
    const int64_t choices_per_scope = T / S * A;
    for (int64_t i = 0; i < T * A; ++i) {
      const int64_t first = i / choices_per_scope * choices_per_scope;
      int64_t before = 0;
      for (int64_t j = first; j < first + choices_per_scope; ++j)
        before += expert.values[static_cast<size_t>(j)] == expert.values[static_cast<size_t>(i)] &&
                  comes_before(j, i);
      if (before >= capacity) result[static_cast<size_t>(i)] = -1;
    }
    return result;
  }

  int64_t T, A, E, S;
  HostTensor<int32_t> expert, kept;
  HostTensor<float> score;
};

}  // namespace

TEST_CASE("capacity keeps what counting by hand keeps") {
  for (const int threads : {1, 3}) {
    CpuBackend backend(threads);
    for (const int64_t S : {1, 4})
      for (const DropOrder order : {DropOrder::kProbs, DropOrder::kPosition})
        for (const int64_t capacity : {0, 1, 3, 8, 1000}) {
          INFO(S << " scopes, capacity " << capacity << ", order " << static_cast<int>(order));
          CapacityCase c(48, 2, 6, S);
          const std::vector<int32_t> kept = c.drop(backend.ops(), capacity, order);
          CHECK(kept == c.naive_drop(capacity, order));
          if (capacity == 0) CHECK(kept == std::vector<int32_t>(96, -1));
          if (capacity == 1000) CHECK(kept == c.expert.values);
          if (capacity == 3) CHECK(kept != c.expert.values);  // the case does drop
        }
  }
}

TEST_CASE("the two orders of dropping, by hand") {
  CpuBackend backend(1);
  CapacityCase c(3, 2, 3, 1);
  c.expert.values = {0, 1, 1, 0, 0, 1};
  c.score.values = {0.5f, 0.25f, 0.5f, 0.375f, 0.75f, 0.125f};
  // Expert 0 is chosen by tokens 0 (0.5), 1 (0.375, its second choice) and 2 (0.75).
  // Expert 1 is chosen by tokens 0 (0.25, second), 1 (0.5) and 2 (0.125, second).
  CHECK(c.drop(backend.ops(), 1, DropOrder::kProbs) == std::vector<int32_t>{-1, -1, 1, -1, 0, -1});
  CHECK(c.drop(backend.ops(), 1, DropOrder::kPosition) ==
        std::vector<int32_t>{0, -1, 1, -1, -1, -1});
  CHECK(c.drop(backend.ops(), 2, DropOrder::kProbs) == std::vector<int32_t>{0, 1, 1, -1, 0, -1});
  CHECK(c.drop(backend.ops(), 2, DropOrder::kPosition) == std::vector<int32_t>{0, 1, 1, -1, 0, -1});
}

TEST_CASE("scores that differ by less than the rounding are ties") {
  CpuBackend backend(1);
  CapacityCase c(2, 1, 1, 1);
  c.expert.values = {0, 0};
  c.score.values = {0.5f, 0.5f + 0x1.0p-22f};  // the second is larger, but only by a quarter step
  CHECK(c.drop(backend.ops(), 1, DropOrder::kProbs) == std::vector<int32_t>{0, -1});
  c.score.values = {0.5f, 0.5f + 0x1.0p-20f};
  CHECK(c.drop(backend.ops(), 1, DropOrder::kProbs) == std::vector<int32_t>{-1, 0});
}

TEST_CASE("expert load counts choices and drops, on top of what was counted") {
  CpuBackend backend(1);
  auto kept = host_tensor<int32_t>({4, 2}, {0, -1, 2, 0, -1, -1, 1, 2});
  auto count = host_tensor<double>({4}, {10, 20, 30, 40});
  backend.ops().expert_load(kQueue, count, kept);
  CHECK(count.values == std::vector<double>{12, 21, 32, 43});
}

TEST_CASE("the balanced choice gives every expert the same load, wherever a rank starts") {
  CpuBackend backend(1);
  HostTensor<int32_t> all({12, 3}), part({5, 3});
  backend.ops().balanced_choice(kQueue, all, 0, 9);
  std::vector<int> load(9, 0);
  for (size_t i = 0; i < all.values.size(); ++i) {
    CHECK(all.values[i] == static_cast<int32_t>(i % 9));
    ++load[static_cast<size_t>(all.values[i])];
  }
  CHECK(load == std::vector<int>(9, 4));
  backend.ops().balanced_choice(kQueue, part, 7, 9);
  CHECK(part.values == std::vector<int32_t>(all.values.begin() + 21, all.values.end()));
}

TEST_CASE("jitter multiplies by the numbers of its stream") {
  CpuBackend backend(3);
  constexpr int64_t kTokens = 300, kWidth = 17, kFirstRow = 40;
  const uint64_t key = random_key(3, "jitter");
  auto x = shared_random<double>("x", {kTokens, kWidth});
  HostTensor<double> y({kTokens, kWidth}, kUnset<double>), later({200, kWidth});
  backend.ops().jitter(kQueue, y, x, 0.125, key, 9, kFirstRow);
  std::vector<double> expected;
  for (size_t i = 0; i < x.values.size(); ++i) {
    const double u = random_uniform(key, kFirstRow * kWidth + i, 9);
    expected.push_back(x.values[i] * (0.875 + 0.25 * u));
  }
  CHECK(relative_error(y.values, expected) <= 1e-14);

  // The rows of another rank or micro-batch are the same numbers of the same stream.
  backend.ops().jitter(kQueue, later, x.view().rows(100, 200), 0.125, key, 9, kFirstRow + 100);
  CHECK(std::equal(later.values.begin(), later.values.end(), y.values.begin() + 100 * kWidth));
}

TEST_CASE("jitter of a gradient is the gradient of jitter") {
  CpuBackend backend(1);
  auto x = shared_random<double>("x", {4, 3});
  auto dy = shared_random<double>("dy", {4, 3});
  HostTensor<double> y({4, 3}), dx({4, 3});
  backend.ops().jitter(kQueue, dx, dy, 0.5, 11, 2, 6);
  check_gradient("x", x, dx.values, [&] {
    backend.ops().jitter(kQueue, y, x, 0.5, 11, 2, 6);
    return dot(y.values, dy.values);
  });
}

TEST_CASE("jitter in f32, in bf16 and with several threads") {
  const auto run = [](Ops& ops, auto zero) {
    auto x = shared_random<decltype(zero)>("x", {300, 17});
    HostTensor<decltype(zero)> y({300, 17});
    ops.jitter(kQueue, y, x, 0.01, 5, 1, 3);
    return outputs(y);
  };
  check_f32(2e-7, run);
  check_bf16(2e-7, run);
  check_thread_counts(run);
}
