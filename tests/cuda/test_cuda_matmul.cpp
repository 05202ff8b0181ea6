// Dense matrix products on CUDA: backend/cuda/matmul.cpp and split_f32.cu.
#include "backend/cuda/split_f32.h"
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t T, N, K;
};

enum class Product { kNt, kNn, kNnAdd, kTnAdd };
constexpr Product kProducts[] = {Product::kNt, Product::kNn, Product::kNnAdd, Product::kTnAdd};

// One product of y, x and w of these element types; the operand that it writes.
template <typename Y, typename X, typename W>
Output run_product(Ops& ops, Placement& place, Product product, Sizes s) {
  auto y = shared_random<Y>("y", {s.T, s.N});
  auto x = shared_random<X>("x", {s.T, s.K});
  auto w = shared_random<W>("w", {s.N, s.K});
  if (product == Product::kNt) y = HostTensor<Y>({s.T, s.N}, kUnset<Y>);
  if (product == Product::kNn) x = HostTensor<X>({s.T, s.K}, kUnset<X>);
  const Tensor y_t = place(y), x_t = place(x), w_t = place(w);
  switch (product) {
    case Product::kNt:
      ops.matmul_nt(kQueue, y_t, x_t, w_t);
      break;
    case Product::kNn:
      ops.matmul_nn(kQueue, x_t, y_t, w_t);
      break;
    case Product::kNnAdd:
      ops.matmul_nn_add(kQueue, x_t, y_t, w_t);
      break;
    case Product::kTnAdd:
      ops.matmul_tn_add(kQueue, w_t, y_t, x_t);
      break;
  }
  place.fetch(y, y_t);
  place.fetch(x, x_t);
  place.fetch(w, w_t);
  if (product == Product::kNt) return output(y);
  return product == Product::kTnAdd ? output(w) : output(x);
}

// One product against the CPU's in f64. Bits of `mixture`: which of y, x, w are bf16; others are
// f32.
void check_mixture(CudaDevice& device, Product product, int mixture, Sizes s) {
  INFO("T " << s.T << " N " << s.N << " K " << s.K << ", product " << static_cast<int>(product)
            << ", bf16 among y, x, w: bits of " << mixture);
  CpuBackend cpu(1);
  Placement host(nullptr);
  const Output wide = run_product<double, double, double>(cpu.ops(), host, product, s);
  CudaOps ops(device);
  Placement place(device.stream(kQueue));
  const auto pick = [&](int operand, const auto& function) {
    return (mixture >> operand & 1) != 0 ? function(BFloat16{}) : function(float{});
  };
  const Output narrow = pick(0, [&](auto y) {
    return pick(1, [&](auto x) {
      return pick(2, [&](auto w) {
        return run_product<decltype(y), decltype(x), decltype(w)>(ops, place, product, s);
      });
    });
  });
  if (narrow.dtype == DType::kBF16)
    CHECK(error_beyond_rounding(narrow.values, wide.values) <= 2e-6);
  else
    CHECK(relative_error(narrow.values, wide.values) <= 2e-6);
}

}  // namespace

TEST_CASE("matrix products") {
  // Odd sizes, no rows, no terms in the sum.
  for (const Sizes s : {Sizes{1, 1, 1}, Sizes{5, 7, 3}, Sizes{0, 4, 3}, Sizes{4, 3, 0},
                        Sizes{4, 0, 3}, Sizes{33, 17, 65}, Sizes{130, 100, 90}, Sizes{64, 40, 128}})
    for (const Product product : kProducts) {
      INFO("T " << s.T << " N " << s.N << " K " << s.K << ", product "
                << static_cast<int>(product));
      check_on_cuda(1e-6, [&](Ops& ops, Placement& place, auto zero) {
        using Real = decltype(zero);
        // Gradients of weights are of the accumulator dtype.
        if (product == Product::kTnAdd)
          return Outputs{run_product<Real, Real, Compute<Real>>(ops, place, product, s)};
        return Outputs{run_product<Real, Real, Real>(ops, place, product, s)};
      });
    }
}

TEST_CASE("matrix products of bf16 and f32 in any mixture") {
  CudaDevice device(0);
  for (const Sizes s : {Sizes{37, 24, 51}, Sizes{0, 8, 8}, Sizes{8, 0, 16}})
    for (const Product product : kProducts)
      for (int mixture = 0; mixture < 8; ++mixture) check_mixture(device, product, mixture, s);
}

TEST_CASE("large f32 operands times bf16, slice by slice") {
  CudaDevice device(0);
  // Slices of y: rows of the result, or terms; of w: columns of the result, or terms.
  check_mixture(device, Product::kNn, 6, {1051, 1000, 9});
  check_mixture(device, Product::kNnAdd, 4, {1051, 1000, 9});
  check_mixture(device, Product::kTnAdd, 2, {1051, 1000, 9});
  check_mixture(device, Product::kNt, 2, {9, 1051, 1000});
  check_mixture(device, Product::kNn, 1, {9, 1051, 1000});
}

// bf16 inputs would hide what is lost of an f32 one.
TEST_CASE("a product of f32 and bf16 keeps all bits of the f32") {
  auto y = random_tensor<float>("y", {40, 72});
  const auto w = shared_random<BFloat16>("w", {72, 56});
  HostTensor<double> wide_y({40, 72}), wide_x({40, 56});
  for (size_t i = 0; i < y.values.size(); ++i) wide_y.values[i] = y.values[i];
  auto wide_w = shared_random<double>("w", {72, 56});
  CpuBackend cpu(1);
  cpu.ops().matmul_nn(kQueue, wide_x, wide_y, wide_w);
  CudaDevice device(0);
  CudaOps ops(device);
  Placement place(device.stream(kQueue));
  HostTensor<BFloat16> narrow_w = w;
  HostTensor<float> x({40, 56}, kUnset<float>);
  const Tensor x_t = place(x);
  ops.matmul_nn(kQueue, x_t, place(y), place(narrow_w));
  place.fetch(x, x_t);
  CHECK(relative_error(x.values, wide_x.values) <= 1e-6);
}

TEST_CASE("three bf16 add up to an f32") {
  CudaDevice device(0);
  const cudaStream_t stream = device.stream(kQueue);
  for (const int64_t count : {0, 1, 7, 8, 9, 5000})
    for (const int64_t skipped : {0, 1}) {  // elements, so that the rest is aligned or not
      if (skipped > count) continue;
      INFO(count << " elements from " << skipped);
      auto x = random_tensor<float>("x", {count});
      const float special[] = {0, -0.0F, 3e38F, -3.4e38F, 1e-38F, 1e-44F, 16777215.0F, 0.1F};
      std::copy_n(special, std::min<size_t>(x.values.size(), std::size(special)), x.values.begin());
      HostTensor<BFloat16> parts({3, round_up(count, 8)});
      Placement place(stream);
      const Tensor x_t = place(x), parts_t = place(parts);
      auto* const first = parts_t.data<BFloat16>();
      const int64_t stride = round_up(count, 8);
      cuda::split_f32(stream, {{first, first + stride, first + 2 * stride}},
                      x_t.data<float>() + skipped, count - skipped);
      place.fetch(parts, parts_t);
      bool is_exact = true;
      for (int64_t i = 0; i < count - skipped; ++i) {
        double sum = 0;
        for (int64_t part = 0; part < 3; ++part)
          sum += to_double(parts.values[static_cast<size_t>(part * stride + i)]);
        const double whole = x.values[static_cast<size_t>(skipped + i)];
        // The smallest bf16 above zero is 2^-133.
        is_exact = is_exact && std::abs(sum - whole) <= (std::abs(whole) < 0x1p-110 ? 0x1p-133 : 0);
      }
      CHECK(is_exact);
    }
  HostTensor<float> x({3});
  x.values = {INFINITY, -INFINITY, NAN};
  HostTensor<BFloat16> parts({24});
  Placement place(stream);
  const Tensor x_t = place(x), parts_t = place(parts);
  auto* const first = parts_t.data<BFloat16>();
  cuda::split_f32(stream, {{first, first + 8, first + 16}}, x_t.data<float>(), 3);
  place.fetch(parts, parts_t);
  const auto value = [&](int part, int i) {
    return to_double(parts.values[static_cast<size_t>(8 * part + i)]);
  };
  CHECK(value(0, 0) == INFINITY);
  CHECK(value(0, 1) == -INFINITY);
  CHECK(std::isnan(value(0, 2)));
  for (int i = 0; i < 3; ++i) CHECK((value(1, i) == 0 && value(2, i) == 0));
}
