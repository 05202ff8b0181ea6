// Expert dispatch on CUDA: plans, the bytes of rows, and sums, equal to the CPU's.
#include <set>

#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t T, A, E, P, D;
};

enum class Load { kSkewed, kOneExpert, kAllDropped };

// Choices of different experts, of which every seventh is dropped.
HostTensor<int32_t> kept_choices(const Sizes& s, Load load) {
  HostTensor<int32_t> kept({s.T, s.A}, -1);
  const uint64_t key = random_key(7, "choices");
  for (int64_t t = 0; load != Load::kAllDropped && t < s.T; ++t) {
    std::set<int64_t> taken;
    for (int64_t a = 0; a < s.A; ++a) {
      const auto i = static_cast<size_t>(t * s.A + a);
      const double u = random_uniform(key, i);
      auto e = load == Load::kOneExpert ? s.E / 2 + a
                                        : static_cast<int64_t>(u * u * static_cast<double>(s.E));
      while (!taken.insert(e % s.E).second) ++e;
      if (load == Load::kOneExpert || i % 7 != 3) kept.values[i] = static_cast<int32_t>(e % s.E);
    }
  }
  return kept;
}

template <typename T>
Output fetched(Placement& place, HostTensor<T>& host, Tensor tensor) {
  place.fetch(host, tensor);
  return output(host);
}

// There and back: all that is sent arrives at one rank, which returns it.
template <typename Real>
Outputs dispatch(Ops& ops, Placement& place, const Sizes& s, Load load) {
  using Acc = Compute<Real>;
  constexpr DType kReal = DTypeOf<Real>::value;
  const int64_t per_peer = s.E / s.P;
  Outputs results;
  HostTensor<int32_t> kept_ = kept_choices(s, load), send_row_({s.T, s.P}, -7);
  HostTensor<int32_t> send_token_({s.T * std::min(s.A, s.P)}, -7), counts_({2, s.P}, -7);
  Tensor kept = place(kept_), send_row = place(send_row_), send_token = place(send_token_),
         counts = place(counts_);
  ops.plan_send(kQueue, send_row, send_token, counts, kept, per_peer);
  for (auto [host, tensor] :
       {std::pair{&send_row_, send_row}, {&send_token_, send_token}, {&counts_, counts}})
    results.push_back(fetched(place, *host, tensor));
  const auto begin_of_choices = counts_.values.begin() + s.P;
  const int64_t N = std::accumulate(counts_.values.begin(), begin_of_choices, int64_t{0});
  const int64_t R = std::accumulate(begin_of_choices, counts_.values.end(), int64_t{0});

  auto x_ = shared_random<Real>("x", {s.T, s.D});
  auto weight_ = shared_random<Acc>("weight", {s.T, s.A});
  HostTensor<uint8_t> rows_({N, dispatch_row_bytes(s.D, s.A, kReal)}, 255);
  Tensor x = place(x_), rows = place(rows_), sent = send_token.rows(0, N);
  ops.pack_rows(kQueue, rows, x, place(weight_), kept, sent, send_row, per_peer);
  results.push_back(fetched(place, rows_, rows));

  HostTensor<int32_t> begin_({per_peer + 1}, -7), source_row_({R}, -7), place_({N, s.A}, -7);
  HostTensor<Acc> gate_({R}, kUnset<Acc>);
  Tensor begin = place(begin_), source_row = place(source_row_), row_of_choice = place(place_),
         gate = place(gate_);
  ops.plan_receive(kQueue, begin, source_row, gate, row_of_choice, rows, s.D, kReal);
  for (auto [host, tensor] :
       {std::pair{&begin_, begin}, {&source_row_, source_row}, {&place_, row_of_choice}})
    results.push_back(fetched(place, *host, tensor));
  results.push_back(fetched(place, gate_, gate));

  HostTensor<Real> in_({R, s.D}, kUnset<Real>), sum_({N, s.D}, kUnset<Real>), y_ = x_, dout_ = in_;
  Tensor in = place(in_), sum = place(sum_), y = place(y_), dout = place(dout_);
  ops.unpack_rows(kQueue, in, rows, source_row);
  ops.combine_rows(kQueue, sum, in, row_of_choice);
  ops.combine_rows(kQueue, y, sum, send_row);
  results.push_back(fetched(place, in_, in));
  results.push_back(fetched(place, sum_, sum));
  results.push_back(fetched(place, y_, y));
  ops.gather_rows(kQueue, sum, x, sent);
  ops.gather_rows(kQueue, dout, sum, source_row);
  results.push_back(fetched(place, dout_, dout));

  HostTensor<Acc> slots_({N, s.A}, kUnset<Acc>), dweight_({s.T, s.A}, kUnset<Acc>);
  HostTensor<uint8_t> returned_({N, gradient_row_bytes(s.D, s.A, kReal)}, 255);
  Tensor slots = place(slots_), returned = place(returned_), dweight = place(dweight_);
  ops.gather_slots(kQueue, slots, gate, row_of_choice);
  ops.pack_row_gradients(kQueue, returned, sum, slots);
  ops.unpack_row_gradients(kQueue, y, dweight, returned, send_row, kept, per_peer);
  results.push_back(fetched(place, slots_, slots));
  results.push_back(fetched(place, returned_, returned));
  results.push_back(fetched(place, y_, y));
  results.push_back(fetched(place, dweight_, dweight));
  return results;
}

void check_dispatch(const Sizes& s, Load load = Load::kSkewed) {
  CAPTURE(s.T, s.A, s.E, s.P, s.D, static_cast<int>(load));
  check_equals_cpu([&](Ops& ops, Placement& place, auto zero) {
    return dispatch<decltype(zero)>(ops, place, s, load);
  });
}

}  // namespace

TEST_CASE("dispatch on CUDA equals the CPU's") {
  check_dispatch({0, 2, 8, 4, 16});
  check_dispatch({1, 1, 1, 1, 1});
  check_dispatch({37, 3, 8, 2, 33});
  check_dispatch({37, 3, 8, 8, 24});  // packets in every dtype
  check_dispatch({37, 3, 9, 1, 20});  // in some
  check_dispatch({50, 16, 512, 64, 8});
  check_dispatch({30, 4, 512, 512, 5});
  check_dispatch({9, 2, 6, 3, 1100});  // more columns than a warp has at a time
}

TEST_CASE("dispatch on CUDA: choices of many chunks") {
  check_dispatch({700, 4, 64, 16, 3});
  check_dispatch({1031, 1, 3, 3, 2});
}

TEST_CASE("plan_send on CUDA: so many choices that chunks grow") {
  const Sizes s{66000, 4, 6, 3, 1};
  const auto plan = [&](Ops& ops, Placement& place) {
    HostTensor<int32_t> kept = kept_choices(s, Load::kSkewed), send_row({s.T, s.P}, -7);
    HostTensor<int32_t> send_token({s.T * s.P}, -7), counts({2, s.P}, -7);
    Tensor row = place(send_row), token = place(send_token), count = place(counts);
    ops.plan_send(kQueue, row, token, count, place(kept), s.E / s.P);
    place.fetch(send_row, row);
    place.fetch(send_token, token);
    place.fetch(counts, count);
    return std::vector{send_row.values, send_token.values, counts.values};
  };
  CpuBackend cpu(1);
  CudaDevice device(0);
  CudaOps ops(device);
  Placement host(nullptr), there(device.stream({}));
  CHECK((plan(ops, there) == plan(cpu.ops(), host)));
}

TEST_CASE("dispatch on CUDA: all tokens to the same experts, and all dropped") {
  check_dispatch({600, 1, 8, 4, 3}, Load::kOneExpert);
  check_dispatch({300, 2, 8, 4, 8}, Load::kOneExpert);
  check_dispatch({300, 2, 8, 4, 8}, Load::kAllDropped);
}

TEST_CASE("dispatch on CUDA: a peer without experts receives nothing") {
  check_equals_cpu([&](Ops& ops, Placement& place, auto zero) {
    using Real = decltype(zero);
    HostTensor<int32_t> begin({1}, -7), source_row({0}), row_of_choice({3, 2}, -7);
    HostTensor<Compute<Real>> gate({0});
    HostTensor<uint8_t> rows({3, dispatch_row_bytes(4, 2, DTypeOf<Real>::value)}, 255);
    Tensor b = place(begin), r = place(row_of_choice);
    ops.plan_receive(kQueue, b, place(source_row), place(gate), r, place(rows), 4,
                     DTypeOf<Real>::value);
    return Outputs{fetched(place, begin, b), fetched(place, row_of_choice, r)};
  });
}

TEST_CASE("combine_rows on CUDA adds in ascending order of index") {
  check_equals_cpu([](Ops& ops, Placement& place, auto) {
    auto in = host_tensor<double>({3, 1}, {1e16, 1, -1e16});
    auto index = host_tensor<int32_t>({5, 3}, {2, 0, 1, 0, 1, 2, -1, 2, 1, -1, -1, -1, 1, -1, -1});
    HostTensor<double> out({5, 1}, kUnset<double>);
    Tensor o = place(out);
    ops.combine_rows(kQueue, o, place(in), place(index));
    place.fetch(out, o);
    // (1e16 + 1) - 1e16 = 0 in f64; 1e16 and -1e16 first would give 1.
    CHECK(out.values == std::vector<double>{0, 0, 1 - 1e16, 0, 1});
    return outputs(out);
  });
}

TEST_CASE("sums of rows on CUDA: many indices, in any order; sums over peers in theirs") {
  check_equals_cpu([](Ops& ops, Placement& place, auto zero) {
    using Real = decltype(zero);
    constexpr int64_t kRows = 600, kTokens = 7, kPeers = 512, kWidth = 40;
    HostTensor<int32_t> index({kTokens, kPeers}), kept({kTokens, 2}, -1);
    for (size_t i = 0; i < index.values.size(); ++i)
      index.values[i] = i % 3 == 0 || i < kPeers ? -1 : static_cast<int32_t>(i * 7 % kRows);
    auto in = shared_random<Real>("in", {kRows, kWidth});
    auto gates = shared_random<Compute<Real>>("gates", {kRows, 2});
    HostTensor<Real> sum({kTokens, kWidth}, kUnset<Real>), dx = sum;
    HostTensor<Compute<Real>> dweight({kTokens, 2}, kUnset<Compute<Real>>);
    HostTensor<uint8_t> rows({kRows, gradient_row_bytes(kWidth, 2, DTypeOf<Real>::value)});
    Tensor s = place(sum), d = place(dx), w = place(dweight), r = place(rows), x = place(in);
    Tensor row_of = place(index);
    ops.combine_rows(kQueue, s, x, row_of);
    ops.pack_row_gradients(kQueue, r, x, place(gates));
    ops.unpack_row_gradients(kQueue, d, w, r, row_of, place(kept), 2);
    return Outputs{fetched(place, sum, s), fetched(place, dx, d), fetched(place, dweight, w)};
  });
}
