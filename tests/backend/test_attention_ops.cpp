// Attention in blocks against the full matrix of scores, its gradient, and the rotary embedding.
#include <complex>

#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t sequences, length;
  int64_t heads, kv_heads, head_dim;
  int64_t document_length;  // a token sees the document that it is in

  int64_t tokens() const { return sequences * length; }
};

// Lengths around the blocks of 64 queries and 128 keys; documents that end inside and at blocks.
const std::vector<Sizes> kSizes = {
    {2, 1, 1, 1, 4, 1},     {3, 5, 2, 1, 6, 5},    {2, 63, 4, 2, 8, 63},   {1, 64, 4, 4, 3, 20},
    {2, 65, 6, 2, 8, 65},   {2, 127, 2, 2, 4, 40}, {1, 128, 4, 1, 8, 128}, {2, 129, 4, 2, 16, 128},
    {2, 200, 4, 2, 8, 130}, {1, 330, 2, 1, 8, 1},  {1, 330, 2, 1, 8, 330}, {1, 330, 3, 1, 8, 257}};

template <typename Real>
struct AttentionCase {
  explicit AttentionCase(Sizes s, double query_std = 1)
      : size(s),
        query(shared_random<Real>("query", {s.tokens(), s.heads * s.head_dim}, query_std)),
        key(shared_random<Real>("key", {s.tokens(), s.kv_heads * s.head_dim})),
        value(shared_random<Real>("value", {s.tokens(), s.kv_heads * s.head_dim})),
        dout(shared_random<Real>("dout", {s.tokens(), s.heads * s.head_dim})),
        out({s.tokens(), s.heads * s.head_dim}, kUnset<Real>),
        log_sum_exp({s.tokens(), s.heads}, kUnset<Compute<Real>>),
        dquery({s.tokens(), s.heads * s.head_dim}, kUnset<Real>),
        dkey({s.tokens(), s.kv_heads * s.head_dim}, kUnset<Real>),
        dvalue({s.tokens(), s.kv_heads * s.head_dim}, kUnset<Real>),
        first_visible({s.tokens()}) {
    for (int64_t t = 0; t < s.tokens(); ++t) {
      const int64_t in_sequence = t % s.length;
      first_visible.values[static_cast<size_t>(t)] =
          static_cast<int32_t>(t - in_sequence % s.document_length);
    }
  }

  void forward(Ops& ops) {
    ops.attention_forward(kQueue, out, log_sum_exp, query, key, value, first_visible, size.head_dim,
                          size.length);
  }
  void backward(Ops& ops) {
    ops.attention_backward(kQueue, dquery, dkey, dvalue, dout, out, log_sum_exp, query, key, value,
                           first_visible, size.head_dim, size.length);
  }

  Sizes size;
  HostTensor<Real> query, key, value, dout, out;
  HostTensor<Compute<Real>> log_sum_exp;
  HostTensor<Real> dquery, dkey, dvalue;
  HostTensor<int32_t> first_visible;
};

struct Naive {
  std::vector<double> out, log_sum_exp;
};

Naive naive_attention(const AttentionCase<double>& c) {
  const Sizes s = c.size;
  Naive result{std::vector<double>(c.out.values.size(), 0.0), {}};
  const auto at = [&](const HostTensor<double>& x, int64_t t, int64_t head, int64_t heads) {
    return x.values.begin() + (t * heads + head) * s.head_dim;
  };
  for (int64_t t = 0; t < s.tokens(); ++t)
    for (int64_t head = 0; head < s.heads; ++head) {
      const int64_t kv = head / (s.heads / s.kv_heads);
      const int64_t first = c.first_visible.values[static_cast<size_t>(t)];
      std::vector<double> probs;
      for (int64_t k = first; k <= t; ++k) {
        const auto q = at(c.query, t, head, s.heads);
        probs.push_back(std::inner_product(q, q + s.head_dim, at(c.key, k, kv, s.kv_heads), 0.0) /
                        std::sqrt(static_cast<double>(s.head_dim)));
      }
      const double largest = *std::max_element(probs.begin(), probs.end());
      double total = 0;
      for (double& p : probs) total += p = std::exp(p - largest);
      for (int64_t k = first; k <= t; ++k)
        for (int64_t i = 0; i < s.head_dim; ++i)
          result.out[static_cast<size_t>((t * s.heads + head) * s.head_dim + i)] +=
              probs[static_cast<size_t>(k - first)] / total * at(c.value, k, kv, s.kv_heads)[i];
      result.log_sum_exp.push_back(largest + std::log(total));
    }
  return result;
}

template <typename Real>
struct RopeCase {
  RopeCase(int64_t T, int64_t heads, int64_t head_dim_)
      : head_dim(head_dim_), x(shared_random<Real>("x", {T, heads * head_dim})), position({T}) {
    for (size_t t = 0; t < position.values.size(); ++t)
      position.values[t] = static_cast<int32_t>(t % 7 == 6 ? 100000 + t : t % 50);
  }

  void forward(Ops& ops) { ops.rope_forward(kQueue, x, position, head_dim, 10000.0); }
  void backward(Ops& ops) { ops.rope_backward(kQueue, x, position, head_dim, 10000.0); }

  int64_t head_dim;
  HostTensor<Real> x;
  HostTensor<int32_t> position;
};

}  // namespace

TEST_CASE("attention against the full matrix of scores") {
  for (const int threads : {1, 3}) {
    CpuBackend backend(threads);
    for (const Sizes& s : kSizes)
      for (const double query_std : {1.0, 40.0}) {  // scores of about 1 and of hundreds
        INFO("length " << s.length << " heads " << s.heads << "/" << s.kv_heads << " documents of "
                       << s.document_length);
        AttentionCase<double> c(s, query_std);
        const Naive naive = naive_attention(c);
        c.forward(backend.ops());
        CHECK(relative_error(c.out.values, naive.out) <= 1e-12);
        CHECK(relative_error(c.log_sum_exp.values, naive.log_sum_exp) <= 1e-13);
      }
  }
}

TEST_CASE("gradients of attention") {
  CpuBackend backend(1);
  for (const Sizes& s : {Sizes{2, 5, 4, 2, 3, 3}, Sizes{1, 70, 2, 2, 2, 40},
                         Sizes{2, 150, 2, 1, 4, 130}, Sizes{1, 140, 3, 1, 2, 140}}) {
    AttentionCase<double> c(s);
    c.forward(backend.ops());
    c.backward(backend.ops());
    const auto loss = [&] {
      c.forward(backend.ops());
      return dot(c.out.values, c.dout.values);
    };
    check_gradient("query", c.query, c.dquery.values, loss, 60);
    check_gradient("key", c.key, c.dkey.values, loss, 60);
    check_gradient("value", c.value, c.dvalue.values, loss, 60);
  }
}

TEST_CASE("attention in f32 and with several threads") {
  for (const Sizes& s : kSizes) {
    const auto run = [&s](Ops& ops, auto zero) {
      AttentionCase<decltype(zero)> c(s);
      c.forward(ops);
      c.backward(ops);
      return outputs(c.out, c.log_sum_exp, c.dquery, c.dkey, c.dvalue);
    };
    INFO("length " << s.length << " documents of " << s.document_length);
    check_thread_counts(run);
    // Documents of one token have no gradient of scores: dP - delta is rounding, and no bound
    // holds.
    if (s.document_length == 1) continue;
    check_f32(5e-6, run);
  }
}

TEST_CASE("attention in bf16") {
  for (const Sizes& s : kSizes) {
    INFO("length " << s.length << " documents of " << s.document_length);
    check_bf16(5e-6, [&s](Ops& ops, auto zero) {
      AttentionCase<decltype(zero)> c(s);
      c.forward(ops);
      Outputs all = outputs(c.out, c.log_sum_exp);
      // The backward starts from the same numbers in every dtype, not from a rounded output.
      c.out = shared_random<decltype(zero)>("out", {s.tokens(), s.heads * s.head_dim});
      c.backward(ops);
      for (const auto* gradient : {&c.dquery, &c.dkey, &c.dvalue}) all.push_back(output(*gradient));
      return all;
    });
  }
}

TEST_CASE("no gradient crosses the border of a document") {
  CpuBackend backend(1);
  AttentionCase<double> c({1, 200, 2, 1, 4, 130});
  c.forward(backend.ops());
  std::fill_n(c.dout.values.begin(), 130 * 8, 0.0);  // only the second document has a gradient
  c.backward(backend.ops());
  CHECK(std::all_of(c.dkey.values.begin(), c.dkey.values.begin() + 130 * 4,
                    [](double d) { return d == 0; }));
  CHECK(std::all_of(c.dvalue.values.begin(), c.dvalue.values.begin() + 130 * 4,
                    [](double d) { return d == 0; }));
}

TEST_CASE("the rotary embedding multiplies by a complex phase") {
  CpuBackend backend(2);
  constexpr int64_t kHeads = 3, kHeadDim = 10, kTokens = 600;
  RopeCase<double> c(kTokens, kHeads, kHeadDim);
  std::vector<double> expected = c.x.values;
  for (int64_t row = 0; row < kTokens * kHeads; ++row)
    for (int64_t i = 0; i < kHeadDim / 2; ++i) {
      double& re = expected[static_cast<size_t>(row * kHeadDim + i)];
      double& im = expected[static_cast<size_t>(row * kHeadDim + i + kHeadDim / 2)];
      const double angle = c.position.values[static_cast<size_t>(row / kHeads)] *
                           std::pow(10000.0, -2.0 * static_cast<double>(i) / kHeadDim);
      const auto rotated = std::complex(re, im) * std::polar(1.0, angle);
      re = rotated.real();
      im = rotated.imag();
    }
  const std::vector<double> before = c.x.values;
  c.forward(backend.ops());
  CHECK(relative_error(c.x.values, expected) <= 1e-13);
  c.backward(backend.ops());
  CHECK(relative_error(c.x.values, before) <= 1e-13);
}

TEST_CASE("gradient of the rotary embedding") {
  CpuBackend backend(1);
  RopeCase<double> x(8, 2, 6), gradient(8, 2, 6);
  const auto dy = shared_random<double>("dy", {8, 12});
  gradient.x.values = dy.values;
  gradient.backward(backend.ops());
  check_gradient("x", x.x, gradient.x.values, [&] {
    RopeCase<double> y = x;
    y.forward(backend.ops());
    return dot(y.x.values, dy.values);
  });
}

TEST_CASE("the rotary embedding in f32, in bf16 and with several threads") {
  for (const bool is_forward : {true, false}) {
    const auto run = [is_forward](Ops& ops, auto zero) {
      RopeCase<decltype(zero)> c(600, 3, 10);
      is_forward ? c.forward(ops) : c.backward(ops);
      return outputs(c.x);
    };
    check_f32(5e-7, run);
    check_bf16(5e-7, run);
    check_thread_counts(run);
  }
}
