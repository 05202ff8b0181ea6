// RMSNorm and the embedding.
#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr double kEps = 1e-5;

template <typename Real>
struct NormCase {
  NormCase(int64_t T_, int64_t D_, bool of_sum_, bool has_residual_)
      : T(T_),
        D(D_),
        of_sum(of_sum_),
        has_residual(has_residual_),
        x(shared_random<Real>("x", {T, D})),
        delta(shared_random<Real>("delta", {T, D})),
        weight(shared_random<Real>("weight", {D})),
        y({T, D}, kUnset<Real>),
        sum({T, D}, kUnset<Real>),
        inv_rms({T}, kUnset<Compute<Real>>),
        dy(shared_random<Real>("dy", {T, D})),
        dresidual(shared_random<Real>("dresidual", {T, D})),
        dx({T, D}, kUnset<Real>),
        dweight({D}, Compute<Real>{3}) {}

  void forward(Ops& ops) {
    ops.rmsnorm_forward(kQueue, y, of_sum ? sum.view() : Tensor(), inv_rms, x,
                        of_sum ? delta.view() : Tensor(), weight, kEps);
  }
  void backward(Ops& ops) {
    ops.rmsnorm_backward(kQueue, dx, dy, has_residual ? dresidual.view() : Tensor(),
                         of_sum ? sum : x, inv_rms, weight);
    ops.rmsnorm_weight_backward(kQueue, dweight, dy, of_sum ? sum : x, inv_rms);
  }

  int64_t T, D;
  bool of_sum, has_residual;
  HostTensor<Real> x, delta, weight, y, sum;
  HostTensor<Compute<Real>> inv_rms;
  HostTensor<Real> dy, dresidual, dx;
  HostTensor<Compute<Real>> dweight;
};

template <typename Real>
struct EmbeddingCase {
  EmbeddingCase(int64_t T, int64_t V, int64_t D)
      : table(shared_random<Real>("table", {V, D})),
        dtable(shared_random<Compute<Real>>("dtable", {V, D})),
        dy(shared_random<Real>("dy", {T, D})),
        y({T, D}, kUnset<Real>),
        ids({T}) {
    // Some tokens often, some never, the last of the vocabulary among them.
    for (int64_t t = 0; t < T; ++t)
      ids.values[static_cast<size_t>(t)] = static_cast<int32_t>(t % 3 == 0 ? V - 1 : t % 5 % V);
  }

  void forward(Ops& ops) { ops.embedding_forward(kQueue, y, table, ids, 0, table.view().dim(0)); }
  void backward(Ops& ops) {
    ops.embedding_backward(kQueue, dtable, dy, ids, 0, dtable.view().dim(0));
  }

  HostTensor<Real> table;
  HostTensor<Compute<Real>> dtable;
  HostTensor<Real> dy, y;
  HostTensor<int32_t> ids;
};

}  // namespace

TEST_CASE("RMSNorm against plain loops") {
  CpuBackend backend(2);
  for (const bool of_sum : {false, true}) {
    NormCase<double> c(700, 65, of_sum, false);
    c.forward(backend.ops());
    std::vector<double> y, sum, inv_rms;
    for (size_t t = 0; t < 700; ++t) {
      double squares = 0;
      for (size_t i = t * 65; i < (t + 1) * 65; ++i) {
        sum.push_back(c.x.values[i] + (of_sum ? c.delta.values[i] : 0));
        squares += sum.back() * sum.back();
      }
      inv_rms.push_back(1 / std::sqrt(squares / 65 + kEps));
      for (size_t d = 0; d < 65; ++d)
        y.push_back(sum[t * 65 + d] * inv_rms.back() * c.weight.values[d]);
    }
    CHECK(relative_error(c.y.values, y) <= 1e-14);
    CHECK(relative_error(c.inv_rms.values, inv_rms) <= 1e-14);
    if (of_sum) CHECK(c.sum.values == sum);
  }
}

TEST_CASE("RMSNorm of zeros is zero, its scale bounded by eps") {
  CpuBackend backend(1);
  NormCase<float> c(2, 8, false, false);
  std::fill(c.x.values.begin(), c.x.values.end(), 0.0f);
  c.forward(backend.ops());
  CHECK(c.y.values == std::vector<float>(16, 0.0f));
  CHECK_THAT(static_cast<double>(c.inv_rms.values[0]),
             Catch::Matchers::WithinRel(1 / std::sqrt(kEps), 1e-6));
}

TEST_CASE("gradients of RMSNorm, of a residual sum too") {
  CpuBackend backend(1);
  for (const bool of_sum : {false, true})
    for (const bool has_residual : {false, true}) {
      NormCase<double> c(4, 6, of_sum, has_residual);
      c.forward(backend.ops());
      c.backward(backend.ops());
      const auto loss = [&] {
        c.forward(backend.ops());
        const double residual =
            has_residual ? dot(of_sum ? c.sum.values : c.x.values, c.dresidual.values) : 0;
        return dot(c.y.values, c.dy.values) + residual;
      };
      check_gradient("x", c.x, c.dx.values, loss);
      if (of_sum) check_gradient("delta", c.delta, c.dx.values, loss);
      for (double& d : c.dweight.values) d -= 3;  // it is added to what was there
      check_gradient("weight", c.weight, c.dweight.values, loss);
    }
}

TEST_CASE("RMSNorm in f32 and with several threads") {
  const auto run = [](Ops& ops, auto zero) {
    NormCase<decltype(zero)> c(700, 65, true, true);
    c.forward(ops);
    c.backward(ops);
    return outputs(c.y, c.sum, c.inv_rms, c.dx, c.dweight);
  };
  check_f32(2e-6, run);
  check_thread_counts(run);
}

TEST_CASE("RMSNorm in bf16") {
  check_bf16(2e-6, [](Ops& ops, auto zero) {
    NormCase<decltype(zero)> c(700, 65, false, true);
    c.forward(ops);
    c.backward(ops);
    return outputs(c.y, c.inv_rms, c.dx, c.dweight);
  });
}

TEST_CASE("the gradient of the residual is added, in rows of any width") {
  for (const int64_t D : {64, 256, 257, 600}) {
    const auto run = [D](Ops& ops, auto zero) {
      NormCase<decltype(zero)> with(9, D, false, true), without(9, D, false, false);
      for (auto* c : {&with, &without}) {
        c->forward(ops);
        c->backward(ops);
      }
      return outputs(with.dx, without.dx, with.dresidual);
    };
    check_bf16(2e-6, run);
    CpuBackend backend(1);
    Outputs wide = run(backend.ops(), double{});
    for (size_t i = 0; i < wide[1].values.size(); ++i) wide[1].values[i] += wide[2].values[i];
    CHECK(relative_error(wide[0].values, wide[1].values) <= 1e-14);
  }
}

TEST_CASE("RMSNorm of a sum in bf16 is that of the sum as it is stored") {
  CpuBackend backend(2);
  NormCase<BFloat16> of_sum(700, 65, true, false), of_stored(700, 65, false, false);
  of_sum.forward(backend.ops());
  for (size_t i = 0; i < of_sum.x.values.size(); ++i) {
    const BFloat16 sum(load(of_sum.x.values[i]) + load(of_sum.delta.values[i]));
    REQUIRE(of_sum.sum.values[i].bits == sum.bits);
  }
  of_stored.x = of_sum.sum;
  of_stored.forward(backend.ops());
  CHECK(same_bits(outputs(of_sum.y, of_sum.inv_rms), outputs(of_stored.y, of_stored.inv_rms)));
}

TEST_CASE("the embedding copies rows and adds their gradients") {
  CpuBackend backend(2);
  EmbeddingCase<double> c(700, 11, 65);
  std::vector<double> y, dtable = c.dtable.values;
  for (size_t t = 0; t < 700; ++t)
    for (size_t d = 0; d < 65; ++d) {
      const size_t i = static_cast<size_t>(c.ids.values[t]) * 65 + d;
      y.push_back(c.table.values[i]);
      dtable[i] += c.dy.values[t * 65 + d];
    }
  c.forward(backend.ops());
  c.backward(backend.ops());
  CHECK(c.y.values == y);
  CHECK(c.dtable.values == dtable);  // in order of tokens: equal, not only close
}

TEST_CASE("gradient of the embedding") {
  CpuBackend backend(1);
  EmbeddingCase<double> c(7, 6, 3);
  std::fill(c.dtable.values.begin(), c.dtable.values.end(), 0.0);
  c.backward(backend.ops());
  check_gradient("table", c.table, c.dtable.values, [&] {
    c.forward(backend.ops());
    return dot(c.y.values, c.dy.values);
  });
}

TEST_CASE("the embedding in f32, in bf16 and with several threads") {
  const auto run = [](Ops& ops, auto zero) {
    EmbeddingCase<decltype(zero)> c(700, 11, 65);
    c.forward(ops);
    c.backward(ops);
    return outputs(c.y, c.dtable);
  };
  check_f32(2e-6, run);
  check_bf16(2e-6, run);
  check_thread_counts(run);
}

TEST_CASE("a token outside the vocabulary is an error, not a crash of a thread") {
  CpuBackend backend(4);
  for (const int32_t id : {-1, 11}) {
    EmbeddingCase<float> c(700, 11, 65);
    c.ids.values.back() = id;
    const std::string message = fmt::format("token id {} outside a vocabulary of 11", id);
    CHECK_THROWS_WITH(c.forward(backend.ops()), contains_text(message));
    CHECK_THROWS_WITH(c.backward(backend.ops()), contains_text(message));
  }
}

TEST_CASE("slices of an embedding table add up to the table") {
  CpuBackend backend(2);
  const int64_t T = 90, V = 7, D = 5;
  EmbeddingCase<double> whole(T, V, D);
  whole.forward(backend.ops());
  HostTensor<double> sum({T, D}), part({T, D}, kUnset<double>);
  HostTensor<double> gradient = whole.dtable;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 3}, {3, 6}, {6, 7}, {7, 7}}) {
    const Tensor rows = whole.table.view().rows(begin, end - begin);
    backend.ops().embedding_forward(kQueue, part, rows, whole.ids, begin, V);
    backend.ops().add(kQueue, sum, sum, part);
    backend.ops().embedding_backward(kQueue, gradient.view().rows(begin, end - begin), whole.dy,
                                     whole.ids, begin, V);
  }
  CHECK(sum.values == whole.y.values);
  whole.backward(backend.ops());
  CHECK(gradient.values == whole.dtable.values);
}
