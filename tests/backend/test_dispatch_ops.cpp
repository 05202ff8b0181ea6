// Dispatch, experts and combine between all peers of a small world in one process, and the way back
// of the gradient, against a loop over tokens.
#include "backend/op_checks.h"
#include "core/random.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t P, T, D, A, L;  // T tokens on each of P peers, which hold L experts each
};

// One rank: its tokens, and the experts' side of the exchange.
template <typename Real>
struct Rank {
  HostTensor<Real> x, weight, dout, out, dx, dweight;
  HostTensor<int32_t> kept, send_row, send_token, counts;

  HostTensor<int32_t> begin = {0}, source_row = {0}, row_of_choice = {0};
  HostTensor<Real> gate = {0}, x_R = {0};

  Tensor sent() { return send_token.view().rows(0, num_sent()); }
  int64_t num_sent() const {
    const auto half = static_cast<ptrdiff_t>(counts.values.size() / 2);
    return std::accumulate(counts.values.begin(), counts.values.begin() + half, int64_t{0});
  }
};

template <typename Real>
class World {
 public:
  explicit World(Sizes sizes) : size(sizes) {
    const auto [P, T, D, A, L] = sizes;
    for (int64_t p = 0; p < P; ++p) {
      const auto name = [p](const char* what) { return fmt::format("{} {}", what, p); };
      ranks.push_back({.x = shared_random<Real>(name("x"), {T, D}),
                       .weight = shared_random<Real>(name("weight"), {T, A}),
                       .dout = shared_random<Real>(name("dout"), {T, D}),
                       .out = {{T, D}, kUnset<Real>},
                       .dx = {{T, D}, kUnset<Real>},
                       .dweight = {{T, A}, kUnset<Real>},
                       .kept = {{T, A}},
                       .send_row = {{T, P}, -7},
                       .send_token = HostTensor<int32_t>({T * std::min(A, P)}, -7),
                       .counts = {{2, P}, -7}});
      // Random different experts, a fifth of them dropped; the last expert never chosen.
      const uint64_t key = random_key(7, name("kept"));
      for (int64_t t = 0; t < T; ++t)
        for (int64_t a = 0; a < A; ++a) {
          const uint64_t i = t * A + a;
          ranks.back().kept.values[i] = random_uniform(key, i) < 0.2
                                            ? -1
                                            : static_cast<int32_t>(random_permutation(
                                                  key + t, a, static_cast<uint64_t>(P * L - 1)));
        }
    }
  }

  // out = sum over kept choices of weight * sin(x + expert).
  void forward(Ops& ops) {
    const auto [P, T, D, A, L] = size;
    const int64_t row_bytes = dispatch_row_bytes(D, A, kReal);
    std::vector<std::vector<uint8_t>> sent;
    for (auto& rank : ranks) {
      ops.plan_send(kQueue, rank.send_row, rank.send_token, rank.counts, rank.kept, L);
      HostTensor<uint8_t> rows({rank.num_sent(), row_bytes}, 255);
      ops.pack_rows(kQueue, rows, rank.x, rank.weight, rank.kept, rank.sent(), rank.send_row, L);
      sent.push_back(rows.values);
    }
    const auto received = to_experts(sent, row_bytes);
    std::vector<std::vector<Real>> returned;
    for (int64_t p = 0; p < P; ++p) {
      Rank<Real>& rank = ranks[p];
      const int64_t N = static_cast<int64_t>(received[p].size()) / row_bytes;
      int64_t R = 0;
      for (const auto& source : ranks) R += source.counts.values[P + p];
      auto rows = host_tensor({N, row_bytes}, received[p]);
      rank.begin = HostTensor<int32_t>({L + 1}, -7);
      rank.source_row = HostTensor<int32_t>({R}, -7);
      rank.row_of_choice = HostTensor<int32_t>({N, A}, -7);
      rank.gate = HostTensor<Real>({R}, kUnset<Real>);
      rank.x_R = HostTensor<Real>({R, D}, kUnset<Real>);
      ops.plan_receive(kQueue, rank.begin, rank.source_row, rank.gate, rank.row_of_choice, rows, D,
                       kReal);
      ops.unpack_rows(kQueue, rank.x_R, rows, rank.source_row);
      HostTensor<Real> y({R, D}), combined({N, D}, kUnset<Real>);
      for_each_expert_element(p, [&](int64_t r, size_t i, Real e) {
        y.values[i] = rank.gate.values[r] * std::sin(rank.x_R.values[i] + e);
      });
      ops.combine_rows(kQueue, combined, y, rank.row_of_choice);
      returned.push_back(combined.values);
    }
    const auto back = to_tokens(returned, D);
    for (int64_t p = 0; p < P; ++p) {
      auto rows = host_tensor({ranks[p].num_sent(), D}, back[p]);
      ops.combine_rows(kQueue, ranks[p].out, rows, ranks[p].send_row);
    }
  }

  void backward(Ops& ops) {
    const auto [P, T, D, A, L] = size;
    std::vector<std::vector<Real>> sent;
    for (auto& rank : ranks) {
      HostTensor<Real> rows({rank.num_sent(), D}, kUnset<Real>);
      ops.gather_rows(kQueue, rows, rank.dout, rank.sent());
      sent.push_back(rows.values);
    }
    const auto received = to_experts(sent, D);
    const int64_t row_bytes = gradient_row_bytes(D, A, kReal);
    std::vector<std::vector<uint8_t>> returned;
    for (int64_t p = 0; p < P; ++p) {
      Rank<Real>& rank = ranks[p];
      const int64_t N = static_cast<int64_t>(received[p].size()) / D;
      const auto R = static_cast<int64_t>(rank.gate.values.size());
      auto rows = host_tensor({N, D}, received[p]);
      HostTensor<Real> dy({R, D}, kUnset<Real>), dx({R, D}), dgate({R}, Real{0});
      ops.gather_rows(kQueue, dy, rows, rank.source_row);
      for_each_expert_element(p, [&](int64_t r, size_t i, Real e) {
        dx.values[i] = dy.values[i] * rank.gate.values[r] * std::cos(rank.x_R.values[i] + e);
        dgate.values[r] += dy.values[i] * std::sin(rank.x_R.values[i] + e);
      });
      HostTensor<uint8_t> gradients({N, row_bytes}, 255);
      HostTensor<Real> dsum({N, D}, kUnset<Real>), slots({N, A}, kUnset<Real>);
      ops.combine_rows(kQueue, dsum, dx, rank.row_of_choice);
      ops.gather_slots(kQueue, slots, dgate, rank.row_of_choice);
      ops.pack_row_gradients(kQueue, gradients, dsum, slots);
      returned.push_back(gradients.values);
    }
    const auto back = to_tokens(returned, row_bytes);
    for (int64_t p = 0; p < P; ++p) {
      Rank<Real>& rank = ranks[p];
      auto rows = host_tensor({rank.num_sent(), row_bytes}, back[p]);
      ops.unpack_row_gradients(kQueue, rank.dx, rank.dweight, rows, rank.send_row, rank.kept, L);
    }
  }

  Sizes size;
  std::vector<Rank<Real>> ranks;

 private:
  static constexpr DType kReal = DTypeOf<Real>::value;

  // body(expert row, index of element, expert) for the rows that plan_receive gave to each expert.
  template <typename Body>
  void for_each_expert_element(int64_t p, const Body& body) {
    const std::vector<int32_t>& begin = ranks[p].begin.values;
    for (int64_t e = 0; e < size.L; ++e)
      for (int64_t r = begin[e]; r < begin[e + 1]; ++r)
        for (int64_t d = 0; d < size.D; ++d)
          body(r, static_cast<size_t>(r * size.D + d), static_cast<Real>(p * size.L + e));
  }

  // The all-to-all: rows of `width` elements, in the order of peers on both sides.
  template <typename T>
  std::vector<std::vector<T>> to_experts(const std::vector<std::vector<T>>& sent, int64_t width) {
    std::vector<std::vector<T>> received(sent.size());
    for (size_t source = 0; source < sent.size(); ++source) {
      auto next = sent[source].begin();
      for (size_t p = 0; p < sent.size(); ++p) {
        const auto end = next + ranks[source].counts.values[p] * width;
        received[p].insert(received[p].end(), next, end);
        next = end;
      }
    }
    return received;
  }

  template <typename T>
  std::vector<std::vector<T>> to_tokens(const std::vector<std::vector<T>>& sent, int64_t width) {
    std::vector<std::vector<T>> received(sent.size());
    for (size_t p = 0; p < sent.size(); ++p) {
      auto next = sent[p].begin();
      for (size_t source = 0; source < sent.size(); ++source) {
        const auto end = next + ranks[source].counts.values[p] * width;
        received[source].insert(received[source].end(), next, end);
        next = end;
      }
    }
    return received;
  }
};

constexpr Sizes kSizes[] = {
    {1, 7, 3, 2, 4}, {2, 9, 5, 1, 3}, {4, 20, 6, 3, 2}, {8, 5, 3, 4, 1}, {3, 300, 33, 3, 4}};

}  // namespace

TEST_CASE("dispatch and combine against a loop over tokens") {
  for (const int threads : {1, 3}) {
    CpuBackend backend(threads);
    for (const Sizes& s : kSizes) {
      INFO(s.P << " peers of " << s.L << " experts, " << s.T << " tokens of " << s.A << " choices");
      World<double> world(s);
      world.forward(backend.ops());
      world.backward(backend.ops());
      for (const Rank<double>& rank : world.ranks) {
        std::vector<double> out(rank.out.values.size()), dx = out;
        std::vector<double> dweight(rank.dweight.values.size());
        for (size_t choice = 0; choice < dweight.size(); ++choice) {
          const int32_t e = rank.kept.values[choice];
          if (e < 0) continue;
          for (int64_t d = 0; d < s.D; ++d) {
            const size_t i = choice / s.A * s.D + d;
            out[i] += rank.weight.values[choice] * std::sin(rank.x.values[i] + e);
            dx[i] +=
                rank.dout.values[i] * rank.weight.values[choice] * std::cos(rank.x.values[i] + e);
            dweight[choice] += rank.dout.values[i] * std::sin(rank.x.values[i] + e);
          }
        }
        CHECK(relative_error(rank.out.values, out) <= 1e-14);
        CHECK(relative_error(rank.dx.values, dx) <= 1e-14);
        CHECK(relative_error(rank.dweight.values, dweight) <= 1e-14);
      }
    }
  }
}

TEST_CASE("gradients through dispatch and combine") {
  CpuBackend backend(1);
  World<double> world({2, 6, 3, 3, 2});
  world.forward(backend.ops());
  world.backward(backend.ops());
  const auto loss = [&] {
    world.forward(backend.ops());
    double sum = 0;
    for (const auto& rank : world.ranks) sum += dot(rank.out.values, rank.dout.values);
    return sum;
  };
  for (auto& rank : world.ranks) {
    check_gradient("x", rank.x, rank.dx.values, loss);
    check_gradient("weight", rank.weight, rank.dweight.values, loss);
  }
}

TEST_CASE("dispatch in f32 and with several threads") {
  const auto run = [](Ops& ops, auto zero) {
    World<decltype(zero)> world({3, 300, 33, 3, 4});
    world.forward(ops);
    world.backward(ops);
    Outputs all;
    for (const auto& rank : world.ranks)
      for (auto& values : outputs(rank.out, rank.dx, rank.dweight)) all.push_back(values);
    return all;
  };
  check_f32(1e-6, run);
  check_thread_counts(run);
}
