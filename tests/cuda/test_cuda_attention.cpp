// Attention on CUDA: backend/cuda/attention.cu and attention_mma.cu.
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t sequences, length;
  int64_t heads, kv_heads, head_dim;
  int64_t document_length;  // a token sees the document that it is in

  int64_t tokens() const { return sequences * length; }
};

// Forward and backward. The backward starts from the same numbers in every dtype, unless
// `own_output`: then from the output as it was rounded.
template <typename Real>
Outputs run_attention(Ops& ops, Placement& place, const Sizes& s, bool own_output,
                      double query_std) {
  const int64_t T = s.tokens(), query_width = s.heads * s.head_dim;
  const int64_t key_width = s.kv_heads * s.head_dim;
  auto query = shared_random<Real>("query", {T, query_width}, query_std);
  auto key = shared_random<Real>("key", {T, key_width});
  auto value = shared_random<Real>("value", {T, key_width});
  auto dout = shared_random<Real>("dout", {T, query_width});
  auto given_out = shared_random<Real>("out", {T, query_width});
  HostTensor<Real> out({T, query_width}, kUnset<Real>), dquery = out;
  HostTensor<Real> dkey({T, key_width}, kUnset<Real>), dvalue = dkey;
  HostTensor<Compute<Real>> log_sum_exp({T, s.heads}, kUnset<Compute<Real>>);
  HostTensor<int32_t> first_visible({T});
  for (int64_t t = 0; t < T; ++t)
    first_visible.values[static_cast<size_t>(t)] =
        static_cast<int32_t>(t - t % s.length % s.document_length);

  const Tensor query_there = place(query), key_there = place(key), value_t = place(value);
  const Tensor dout_t = place(dout), out_t = place(out), given_out_t = place(given_out);
  const Tensor dquery_t = place(dquery), dkey_t = place(dkey), dvalue_t = place(dvalue);
  const Tensor log_sum_exp_t = place(log_sum_exp), first_visible_t = place(first_visible);
  ops.attention_forward(kQueue, out_t, log_sum_exp_t, query_there, key_there, value_t,
                        first_visible_t, s.head_dim, s.length);
  ops.attention_backward(kQueue, dquery_t, dkey_t, dvalue_t, dout_t,
                         own_output ? out_t : given_out_t, log_sum_exp_t, query_there, key_there,
                         value_t, first_visible_t, s.head_dim, s.length);
  place.fetch(out, out_t);
  place.fetch(log_sum_exp, log_sum_exp_t);
  place.fetch(dquery, dquery_t);
  place.fetch(dkey, dkey_t);
  place.fetch(dvalue, dvalue_t);
  return outputs(out, log_sum_exp, dquery, dkey, dvalue);
}

// Root of the mean square of the error, against that of `expected`.
double rms_error(const std::vector<double>& actual, const std::vector<double>& expected) {
  double difference = 0, scale = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    scale += expected[i] * expected[i];
  }
  if (difference == 0) return 0;
  return std::isfinite(difference) ? std::sqrt(difference / scale) : INFINITY;
}

// f64 and f32 against the CPU's f64. bf16: probabilities and gradients of scores are rounded to
// bf16 on the way through the tensor cores, so the error of a tensor may be twice that of the CPU's
// bf16 (about sqrt(2) is expected: two roundings instead of one), and the worst element may be off
// by twice the rounding of the largest.
void check_attention(CudaDevice& device, const Sizes& s, bool own_output = false,
                     double query_std = 1) {
  INFO("length " << s.length << " heads " << s.heads << "/" << s.kv_heads << " of " << s.head_dim
                 << ", documents of " << s.document_length);
  CpuBackend cpu(1);
  Placement host(nullptr);
  CudaOps ops(device);
  const auto run_on_cuda = [&](auto zero) {
    using Real = decltype(zero);
    Placement there(device.stream(kQueue));
    Outputs first = run_attention<Real>(ops, there, s, own_output, query_std);
    Placement again(device.stream(kQueue));
    CHECK(same_bits(run_attention<Real>(ops, again, s, own_output, query_std), first));
    return first;
  };
  const Outputs wide = run_attention<double>(cpu.ops(), host, s, own_output, query_std);
  const Outputs f64 = run_on_cuda(double{}), f32 = run_on_cuda(float{});
  const Outputs bf16 = run_on_cuda(BFloat16{});
  const Outputs cpu_bf16 = run_attention<BFloat16>(cpu.ops(), host, s, own_output, query_std);
  for (size_t i = 0; i < wide.size(); ++i) {
    INFO("output " << i);
    const std::vector<double>& expected = wide[i].values;
    CHECK(relative_error(f64[i].values, expected) <= 1e-12);
    CHECK(relative_error(f32[i].values, expected) <= 5e-6 * query_std);
    CHECK(relative_error(bf16[i].values, expected) <= 0x1p-7);
    CHECK(rms_error(bf16[i].values, expected) <=
          std::max(2 * rms_error(cpu_bf16[i].values, expected), 5e-6 * query_std));
  }
}

}  // namespace

TEST_CASE("attention on CUDA: sequences of any length, documents") {
  CudaDevice device(0);
  // Around tiles of 16, 32 and 64 rows; documents that end inside and at tiles.
  for (const Sizes& s :
       {Sizes{2, 1, 1, 1, 8, 1}, Sizes{3, 5, 2, 1, 8, 5}, Sizes{2, 31, 2, 2, 16, 31},
        Sizes{1, 32, 2, 2, 16, 20}, Sizes{1, 63, 4, 2, 8, 63}, Sizes{1, 64, 2, 1, 8, 32},
        Sizes{2, 65, 1, 1, 8, 65}, Sizes{1, 129, 1, 1, 16, 64}, Sizes{1, 170, 2, 1, 8, 130},
        Sizes{1, 150, 1, 1, 8, 7}})
    check_attention(device, s);
}

TEST_CASE("attention on CUDA: heads of any width") {
  CudaDevice device(0);
  // Padded to 32, 64, 128 and 256, or filling them; and rows that are no whole packets.
  for (const int64_t head_dim : {32, 40, 64, 80, 128, 136, 256, 1, 3, 12, 90})
    check_attention(device, {1, 66, 2, 1, head_dim, 50});
}

TEST_CASE("attention on CUDA: scores of hundreds") {
  CudaDevice device(0);
  check_attention(device, {1, 130, 2, 1, 64, 130}, false, 40);
}

TEST_CASE("attention on CUDA: the gradient through its own output") {
  CudaDevice device(0);
  check_attention(device, {2, 70, 4, 2, 64, 60}, true);
  check_attention(device, {1, 100, 1, 1, 128, 100}, true);
}

TEST_CASE("attention on CUDA: no rows, and heads that are too wide") {
  CudaDevice device(0);
  check_attention(device, {0, 64, 2, 1, 64, 64});
  CudaOps ops(device);
  Placement place(device.stream(kQueue));
  CHECK_THROWS_WITH((run_attention<float>(ops, place, {1, 4, 1, 1, 264, 4}, false, 1)),
                    Catch::Matchers::Contains("at most 256 channels, not 264"));
}

TEST_CASE("attention on CUDA: no gradient crosses the border of a document") {
  constexpr int64_t kTokens = 200, kBorder = 130, kHeadDim = 32;
  CudaDevice device(0);
  CudaOps ops(device);
  const auto check = [&](auto zero) {
    using Real = decltype(zero);
    Placement place(device.stream(kQueue));
    auto query = shared_random<Real>("query", {kTokens, 2 * kHeadDim});
    auto key = shared_random<Real>("key", {kTokens, kHeadDim});
    auto dout = shared_random<Real>("dout", {kTokens, 2 * kHeadDim});
    std::fill_n(dout.values.begin(), kBorder * 2 * kHeadDim, Real{0.0F});
    HostTensor<Real> dkey({kTokens, kHeadDim}, kUnset<Real>);
    HostTensor<Compute<Real>> log_sum_exp({kTokens, 2});
    HostTensor<int32_t> first_visible({kTokens});
    for (int64_t t = kBorder; t < kTokens; ++t)
      first_visible.values[static_cast<size_t>(t)] = kBorder;
    const Tensor query_there = place(query), key_there = place(key), out_t = place(query);
    const Tensor dkey_t = place(dkey), dvalue_t = place(dkey), dquery_t = place(query);
    const Tensor log_sum_exp_t = place(log_sum_exp), visible_t = place(first_visible);
    ops.attention_forward(kQueue, out_t, log_sum_exp_t, query_there, key_there, key_there,
                          visible_t, kHeadDim, kTokens);
    ops.attention_backward(kQueue, dquery_t, dkey_t, dvalue_t, place(dout), out_t, log_sum_exp_t,
                           query_there, key_there, key_there, visible_t, kHeadDim, kTokens);
    for (const Tensor& gradient : {dkey_t, dvalue_t}) {
      place.fetch(dkey, gradient);
      CHECK(std::all_of(dkey.values.begin(), dkey.values.begin() + kBorder * kHeadDim,
                        [](Real d) { return to_double(d) == 0; }));
      CHECK(std::none_of(dkey.values.begin() + kBorder * kHeadDim, dkey.values.end(),
                         [](Real d) { return to_double(d) == 0; }));
    }
  };
  check(float{});
  check(BFloat16{});
}
