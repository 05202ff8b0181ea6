// The products of the experts on CUDA: backend/cuda/grouped_matmul.cu.
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// Expert e owns rows [begin[e], begin[e + 1]).
using Bounds = std::vector<int32_t>;

struct Sizes {
  int64_t N, K;
};

// All four products of one set of experts, with something in every accumulator.
template <typename Real>
Outputs run_products(Ops& ops, Placement& place, const Bounds& bounds, Sizes s) {
  const int64_t R = bounds.back(), L = static_cast<int64_t>(bounds.size()) - 1;
  auto begin = host_tensor({L + 1}, std::vector<int32_t>(bounds));
  auto x = shared_random<Real>("x", {R, s.K}), w = shared_random<Real>("w", {L, s.N, s.K});
  auto dy = shared_random<Real>("dy", {R, s.N}), dx_sum = shared_random<Real>("dx", {R, s.K});
  auto dw = shared_random<Compute<Real>>("dw", {L, s.N, s.K});
  HostTensor<Real> y({R, s.N}, kUnset<Real>), dx({R, s.K}, kUnset<Real>);
  const Tensor begin_t = place(begin), x_t = place(x), w_t = place(w), dy_t = place(dy);
  const Tensor y_t = place(y), dx_t = place(dx), dx_sum_t = place(dx_sum), dw_t = place(dw);
  ops.grouped_matmul_nt(kQueue, y_t, x_t, w_t, begin_t);
  ops.grouped_matmul_nn(kQueue, dx_t, dy_t, w_t, begin_t);
  ops.grouped_matmul_nn_add(kQueue, dx_sum_t, dy_t, w_t, begin_t);
  ops.grouped_matmul_tn_add(kQueue, dw_t, dy_t, x_t, begin_t);
  place.fetch(y, y_t);
  place.fetch(dx, dx_t);
  place.fetch(dx_sum, dx_sum_t);
  place.fetch(dw, dw_t);
  return outputs(y, dx, dx_sum, dw);
}

void check_products(const Bounds& bounds, Sizes s) {
  INFO(bounds.back() << " rows of " << bounds.size() - 1 << " experts, N " << s.N << " K " << s.K);
  check_on_cuda(2e-6, [&](Ops& ops, Placement& place, auto zero) {
    return run_products<decltype(zero)>(ops, place, bounds, s);
  });
}

}  // namespace

TEST_CASE("grouped products: experts of any size") {
  // Without rows at the start, in the middle and at the end; ends at tiles of 64 and 128 rows, and
  // beside them; one expert that has almost all.
  for (const Bounds& bounds :
       {Bounds{0, 0, 3, 3, 10, 10}, Bounds{0, 0, 0}, Bounds{0, 4}, Bounds{0, 1, 2, 3, 4},
        Bounds{0, 64, 128, 192}, Bounds{0, 128, 257}, Bounds{0, 1, 299, 300, 300}})
    check_products(bounds, {40, 48});
}

TEST_CASE("grouped products: matrices of any size") {
  // Whole packets of 16 bytes, which the tensor cores multiply, and odd widths.
  for (const Sizes s :
       {Sizes{8, 8}, Sizes{136, 72}, Sizes{64, 264}, Sizes{128, 128}, Sizes{5, 3}, Sizes{8, 3},
        Sizes{70, 16}, Sizes{131, 65}, Sizes{3, 0}, Sizes{0, 8}, Sizes{8, 0}})
    check_products({0, 5, 5, 38}, s);
}

TEST_CASE("grouped products of bf16 and f32 in any mixture") {
  const Bounds bounds = {0, 50, 50, 133};
  constexpr Sizes kSizes = {24, 40};
  CpuBackend cpu(1);
  Placement host(nullptr);
  const Outputs wide = run_products<double>(cpu.ops(), host, bounds, kSizes);
  CudaDevice device(0);
  CudaOps ops(device);
  for (int mixture = 0; mixture < 8; ++mixture) {
    INFO("bf16 among y, x, w: bits of " << mixture);
    Placement place(device.stream(kQueue));
    const int64_t R = bounds.back(), L = 3, N = kSizes.N, K = kSizes.K;
    auto begin = host_tensor({L + 1}, std::vector<int32_t>(bounds));
    const Tensor begin_t = place(begin);
    // One product; the operand that it writes comes back as f64.
    const auto run = [&](int product, auto y, auto x, auto w) {
      const Tensor y_t = place(y), x_t = place(x), w_t = place(w);
      if (product == 0) ops.grouped_matmul_nt(kQueue, y_t, x_t, w_t, begin_t);
      if (product == 1) ops.grouped_matmul_nn(kQueue, x_t, y_t, w_t, begin_t);
      if (product == 2) ops.grouped_matmul_nn_add(kQueue, x_t, y_t, w_t, begin_t);
      if (product == 3) ops.grouped_matmul_tn_add(kQueue, w_t, y_t, x_t, begin_t);
      place.fetch(y, y_t);
      place.fetch(x, x_t);
      place.fetch(w, w_t);
      return product == 0 ? output(y) : product == 3 ? output(w) : output(x);
    };
    const auto with_dtypes = [&](int product, auto y, auto x, auto w) {
      using Y = decltype(y);
      using X = decltype(x);
      using W = decltype(w);
      return run(product, shared_random<Y>("dy", {R, N}),
                 shared_random<X>(product == 2 ? "dx" : "x", {R, K}),
                 shared_random<W>(product == 3 ? "dw" : "w", {L, N, K}));
    };
    for (int product = 0; product < 4; ++product) {
      INFO("product " << product);
      Output narrow;
      const auto pick = [&](int operand, const auto& function) {
        (mixture >> operand & 1) != 0 ? function(BFloat16{}) : function(float{});
      };
      pick(0, [&](auto y) {
        pick(1, [&](auto x) { pick(2, [&](auto w) { narrow = with_dtypes(product, y, x, w); }); });
      });
      const std::vector<double>& expected = wide[static_cast<size_t>(product)].values;
      if (narrow.dtype == DType::kBF16)
        CHECK(error_beyond_rounding(narrow.values, expected) <= 2e-6);
      else
        CHECK(relative_error(narrow.values, expected) <= 2e-6);
    }
  }
}
