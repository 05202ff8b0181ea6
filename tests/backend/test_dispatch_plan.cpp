// One small dispatch by hand: plans, the bytes of rows, and the order of sums.
#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// Three tokens with two choices among four experts; peer 0 holds experts 0 and 1, peer 1 the rest.
struct SmallDispatch {
  SmallDispatch()
      : kept(host_tensor<int32_t>({3, 2}, {0, 1, 3, 0, -1, 2})),
        x(host_tensor<float>({3, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9})),
        weight(host_tensor<float>({3, 2}, {0.5f, 0.25f, 0.75f, 0.125f, 9, 1})),
        send_row({3, 2}, -7),
        send_token({6}, -7),
        counts({2, 2}, -7),
        rows({4, sizeof(Row)}, 255) {}

  // Row n as floats (hidden state, gate weights), ids and padding.
  struct Row {
    float reals[5];
    int32_t experts[2];
    int32_t padding;
  };

  void plan(Ops& ops) { ops.plan_send(kQueue, send_row, send_token, counts, kept, 2); }
  void pack(Ops& ops) {
    ops.pack_rows(kQueue, rows, x, weight, kept, send_token.view().rows(0, 4), send_row, 2);
  }
  Row row(size_t n) const {
    Row result;
    std::memcpy(&result, rows.values.data() + n * sizeof(Row), sizeof(Row));
    return result;
  }

  HostTensor<int32_t> kept;
  HostTensor<float> x, weight;
  HostTensor<int32_t> send_row, send_token, counts;
  HostTensor<uint8_t> rows;
};

}  // namespace

TEST_CASE("rows of dispatch are padded to 16 bytes") {
  CHECK(dispatch_row_bytes(3, 2, DType::kF32) == 32);  // 5 reals, 2 ids: 28
  CHECK(dispatch_row_bytes(3, 2, DType::kF64) == 48);
  CHECK(dispatch_row_bytes(1024, 8, DType::kF32) == 4096 + 64);
  CHECK(gradient_row_bytes(3, 2, DType::kF32) == 32);
  CHECK(gradient_row_bytes(3, 2, DType::kF64) == 48);
  CHECK(gradient_row_bytes(6, 2, DType::kF32) == 32);
}

TEST_CASE("rows of dispatch in bf16: half the hidden state, gate weights aligned for f32") {
  CHECK(row_gate_offset(3, DType::kBF16) == 8);  // 6 bytes and 2 of padding
  CHECK(row_gate_offset(4, DType::kBF16) == 8);
  CHECK(row_gate_offset(3, DType::kF32) == 12);
  CHECK(dispatch_row_bytes(3, 2, DType::kBF16) == 32);  // 8, 2 gate weights, 2 ids: 24
  CHECK(dispatch_row_bytes(1024, 8, DType::kBF16) == 2048 + 64);
  CHECK(gradient_row_bytes(3, 2, DType::kBF16) == 16);
}

TEST_CASE("plan_send: one row for each token and peer, by peer, then by token") {
  CpuBackend backend(1);
  SmallDispatch d;
  d.plan(backend.ops());
  CHECK(d.send_row.values == std::vector<int32_t>{0, -1, 1, 2, -1, 3});
  CHECK(d.send_token.values == std::vector<int32_t>{0, 1, 1, 2, -1, -1});
  CHECK(d.counts.values == std::vector<int32_t>{2, 2, 3, 2});
}

TEST_CASE("plan_send: a single peer gets a token once, however many of its experts it holds") {
  CpuBackend backend(1);
  auto kept = host_tensor<int32_t>({3, 2}, {0, 1, -1, -1, 3, -1});
  HostTensor<int32_t> send_row({3, 1}), send_token({3}), counts({2, 1});
  backend.ops().plan_send(kQueue, send_row, send_token, counts, kept, 4);
  CHECK(send_row.values == std::vector<int32_t>{0, -1, 1});
  CHECK(send_token.values == std::vector<int32_t>{0, 2, -1});
  CHECK(counts.values == std::vector<int32_t>{2, 3});
}

TEST_CASE("plan_send: an expert that nobody holds is an error") {
  CpuBackend backend(1);
  SmallDispatch d;
  d.kept.values[5] = 4;
  CHECK_THROWS_WITH(d.plan(backend.ops()), contains_text("expert 4 would live on peer 2 of 2"));
}

TEST_CASE("pack_rows: each row has what its peer needs, and zeros elsewhere") {
  CpuBackend backend(1);
  SmallDispatch d;
  d.plan(backend.ops());
  d.pack(backend.ops());
  const SmallDispatch::Row expected[] = {{{1, 2, 3, 0.5f, 0.25f}, {0, 1}, 0},
                                         {{4, 5, 6, 0, 0.125f}, {-1, 0}, 0},
                                         {{4, 5, 6, 0.75f, 0}, {1, -1}, 0},
                                         {{7, 8, 9, 0, 1}, {-1, 0}, 0}};
  for (size_t n = 0; n < 4; ++n) {
    const SmallDispatch::Row row = d.row(n);
    CHECK(std::equal(row.reals, row.reals + 5, expected[n].reals));
    CHECK(std::equal(row.experts, row.experts + 2, expected[n].experts));
    CHECK(row.padding == 0);
  }
}

TEST_CASE("plan_receive: expert rows grouped by expert, in received order") {
  CpuBackend backend(1);
  SmallDispatch d;
  d.plan(backend.ops());
  d.pack(backend.ops());
  Tensor received = d.rows.view().rows(0, 2);  // peer 0's
  HostTensor<int32_t> begin({3}, -7), source_row({3}, -7), row_of_choice({2, 2}, -7);
  HostTensor<float> gate({3}, kUnset<float>), x({3, 3}, kUnset<float>);
  backend.ops().plan_receive(kQueue, begin, source_row, gate, row_of_choice, received, 3,
                             DType::kF32);
  CHECK(begin.values == std::vector<int32_t>{0, 2, 3});
  CHECK(source_row.values == std::vector<int32_t>{0, 1, 0});
  CHECK(gate.values == std::vector<float>{0.5f, 0.125f, 0.25f});
  CHECK(row_of_choice.values == std::vector<int32_t>{0, 2, -1, 1});
  backend.ops().unpack_rows(kQueue, x, received, source_row);
  CHECK(x.values == std::vector<float>{1, 2, 3, 4, 5, 6, 1, 2, 3});
}

TEST_CASE("plan_receive: rows that were not announced, or for other experts, are errors") {
  CpuBackend backend(1);
  SmallDispatch d;
  d.plan(backend.ops());
  d.pack(backend.ops());
  Tensor received = d.rows.view().rows(0, 2);
  HostTensor<int32_t> begin({3}), source_row({4}), row_of_choice({2, 2});
  HostTensor<float> gate({4});
  CHECK_THROWS_WITH(backend.ops().plan_receive(kQueue, begin, source_row, gate, row_of_choice,
                                               received, 3, DType::kF32),
                    contains_text("received 3 expert rows, 4 were announced"));
  HostTensor<int32_t> begin_of_one({2});
  CHECK_THROWS_WITH(backend.ops().plan_receive(kQueue, begin_of_one, source_row, gate,
                                               row_of_choice, received, 3, DType::kF32),
                    contains_text("received local expert 1 of 1"));
}

TEST_CASE("rows of bf16 carry f32 gate weights there and back") {
  CpuBackend backend(1);
  SmallDispatch d;
  d.plan(backend.ops());
  auto x = HostTensor<BFloat16>({3, 3});
  for (size_t i = 0; i < 9; ++i) x.values[i] = BFloat16(d.x.values[i]);
  d.weight.values = {0.1f, 0.2f, 0.3f, 0.4f, 9, 0.6f};  // bf16 could not hold them
  HostTensor<uint8_t> rows({4, dispatch_row_bytes(3, 2, DType::kBF16)}, 255);
  backend.ops().pack_rows(kQueue, rows, x, d.weight, d.kept, d.send_token.view().rows(0, 4),
                          d.send_row, 2);
  CHECK(std::vector<uint8_t>(rows.values.begin() + 6, rows.values.begin() + 8) ==
        std::vector<uint8_t>(2, 0));
  CHECK(std::vector<uint8_t>(rows.values.begin() + 24, rows.values.begin() + 32) ==
        std::vector<uint8_t>(8, 0));
  HostTensor<int32_t> begin({3}, -7), source_row({3}, -7), row_of_choice({2, 2}, -7);
  HostTensor<float> gate({3}, kUnset<float>);
  HostTensor<BFloat16> x_R({3, 3}, kUnset<BFloat16>);
  Tensor received = rows.view().rows(0, 2);  // peer 0's
  backend.ops().plan_receive(kQueue, begin, source_row, gate, row_of_choice, received, 3,
                             DType::kBF16);
  CHECK(begin.values == std::vector<int32_t>{0, 2, 3});
  CHECK(row_of_choice.values == std::vector<int32_t>{0, 2, -1, 1});
  CHECK(gate.values == std::vector<float>{0.1f, 0.4f, 0.2f});
  backend.ops().unpack_rows(kQueue, x_R, received, source_row);
  CHECK(output(x_R).values == std::vector<double>{1, 2, 3, 4, 5, 6, 1, 2, 3});

  // The way back: every peer returns the hidden state and the gate weights as gradients.
  auto dx = HostTensor<BFloat16>({4, 3});
  auto dgate = host_tensor<float>({4, 2}, {0.1f, 0.2f, -1, 0.4f, 0.3f, -1, -1, 0.6f});
  for (size_t i = 0; i < 12; ++i) dx.values[i] = BFloat16(static_cast<float>(i + 1));
  HostTensor<uint8_t> returned({4, gradient_row_bytes(3, 2, DType::kBF16)}, 255);
  HostTensor<BFloat16> dx_T({3, 3}, kUnset<BFloat16>);
  HostTensor<float> dweight({3, 2}, kUnset<float>);
  backend.ops().pack_row_gradients(kQueue, returned, dx, dgate);
  backend.ops().unpack_row_gradients(kQueue, dx_T, dweight, returned, d.send_row, d.kept, 2);
  CHECK(output(dx_T).values == std::vector<double>{1, 2, 3, 4 + 7, 5 + 8, 6 + 9, 10, 11, 12});
  CHECK(dweight.values == std::vector<float>{0.1f, 0.2f, 0.3f, 0.4f, 0, 0.6f});
}

TEST_CASE("sums of rows in bf16 are rounded once") {
  // Wider than the stripe in which a thread sums.
  constexpr int64_t kRows = 40, kTokens = 90, kPeers = 4, kWidth = 1100;
  HostTensor<int32_t> index({kTokens, kPeers}), kept({kTokens, 2}, -1);
  for (size_t i = 0; i < index.values.size(); ++i)
    index.values[i] = i % 5 == 0 ? -1 : static_cast<int32_t>(i * 7 % kRows);
  const auto in_wide = shared_random<double>("in", {kRows, kWidth});
  std::vector<double> expected(static_cast<size_t>(kTokens * kWidth));
  for (size_t i = 0; i < index.values.size(); ++i)
    for (size_t d = 0; index.values[i] >= 0 && d < kWidth; ++d)
      expected[i / kPeers * kWidth + d] +=
          in_wide.values[static_cast<size_t>(index.values[i]) * kWidth + d];
  const auto run = [&](Ops& ops, auto zero) {
    using Real = decltype(zero);
    auto in = shared_random<Real>("in", {kRows, kWidth});
    auto gates = shared_random<Compute<Real>>("gates", {kRows, 2});
    HostTensor<Real> sum({kTokens, kWidth}, kUnset<Real>), dx({kTokens, kWidth}, kUnset<Real>);
    HostTensor<Compute<Real>> dweight({kTokens, 2}, kUnset<Compute<Real>>);
    HostTensor<uint8_t> rows({kRows, gradient_row_bytes(kWidth, 2, DTypeOf<Real>::value)});
    HostTensor<int32_t> row_of = index;
    ops.combine_rows(kQueue, sum, in, row_of);
    ops.pack_row_gradients(kQueue, rows, in, gates);
    ops.unpack_row_gradients(kQueue, dx, dweight, rows, row_of, kept, 2);
    return outputs(sum, dx, dweight);
  };
  check_bf16(1e-6, run);
  CpuBackend backend(2);
  const Outputs wide = run(backend.ops(), double{});
  CHECK(relative_error(wide[0].values, expected) <= 1e-14);
  CHECK(relative_error(wide[1].values, expected) <= 1e-14);
}

TEST_CASE("combine_rows adds in ascending order of index, whatever the order of the choices") {
  CpuBackend backend(1);
  auto in = host_tensor<double>({3, 1}, {1e16, 1, -1e16});
  auto index = host_tensor<int32_t>({5, 3}, {2, 0, 1, 0, 1, 2, -1, 2, 1, -1, -1, -1, 1, -1, -1});
  HostTensor<double> out({5, 1}, kUnset<double>);
  backend.ops().combine_rows(kQueue, out, in, index);
  // (1e16 + 1) - 1e16 = 0 in f64; any other order gives 1.
  CHECK(out.values == std::vector<double>{0, 0, 1 - 1e16, 0, 1});
}

TEST_CASE("gather_rows copies rows by index") {
  check_bf16(0, [](Ops& ops, auto zero) {
    auto in = shared_random<decltype(zero)>("in", {50, 33});
    auto index = host_tensor<int32_t>({4}, {49, 0, 7, 7});
    HostTensor<decltype(zero)> out({4, 33}, kUnset<decltype(zero)>);
    ops.gather_rows(kQueue, out, in, index);
    return outputs(out);
  });
  CpuBackend backend(2);
  auto in = shared_random<double>("in", {50, 33});
  HostTensor<int32_t> index({1200});
  for (size_t r = 0; r < 1200; ++r) index.values[r] = static_cast<int32_t>(r * 7 % 50);
  HostTensor<double> out({1200, 33}, kUnset<double>);
  backend.ops().gather_rows(kQueue, out, in, index);
  std::vector<double> expected;
  for (const int32_t i : index.values)
    expected.insert(expected.end(), in.values.begin() + i * 33, in.values.begin() + (i + 1) * 33);
  CHECK(out.values == expected);
}

TEST_CASE("pack_row_gradients: a row's gradient, and its gate gradients by slot") {
  CpuBackend backend(1);
  auto dx = host_tensor<float>({3, 3}, {101, 202, 303, 10, 20, 30, 0, 0, 0});
  auto dgate = host_tensor<float>({3}, {0.5f, 0.25f, 0.125f});
  auto row_of_choice = host_tensor<int32_t>({3, 2}, {0, 2, -1, 1, -1, -1});
  HostTensor<uint8_t> rows({3, 32}, 255);
  HostTensor<float> slots({3, 2}, kUnset<float>);
  backend.ops().gather_slots(kQueue, slots, dgate, row_of_choice);
  backend.ops().pack_row_gradients(kQueue, rows, dx, slots);
  const std::vector<float> expected = {101, 202, 303, 0.5f, 0.125f, 0, 0, 0,  //
                                       10,  20,  30,  0,    0.25f,  0, 0, 0,  //
                                       0,   0,   0,   0,    0,      0, 0, 0};
  std::vector<float> actual(24);
  std::memcpy(actual.data(), rows.values.data(), rows.values.size());
  CHECK(actual == expected);
}
