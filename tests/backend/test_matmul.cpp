// Matrix products against plain loops.
#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t T, N, K;
};

// Odd sizes, no rows, no terms in the sum, and sizes that several threads share.
constexpr Sizes kSizes[] = {{1, 1, 1},    {5, 7, 3},      {0, 4, 3},     {4, 3, 0},    {4, 0, 3},
                            {33, 17, 65}, {130, 100, 90}, {3, 400, 300}, {500, 16, 40}};

// a (m, k) and b (k, n) by their elements; plus what `c` holds if it is not empty.
template <typename A, typename B>
std::vector<double> naive_product(int64_t m, int64_t n, int64_t k, const A& a, const B& b,
                                  std::vector<double> c = {}) {
  c.resize(static_cast<size_t>(m * n), 0.0);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t l = 0; l < k; ++l) c[static_cast<size_t>(i * n + j)] += a(i, l) * b(l, j);
  return c;
}

// One linear layer: x (T, K), w (N, K), y (T, N), with something in every accumulator.
template <typename Real>
struct LinearCase {
  explicit LinearCase(Sizes s)
      : size(s),
        x(shared_random<Real>("x", {s.T, s.K})),
        w(shared_random<Real>("w", {s.N, s.K})),
        dy(shared_random<Real>("dy", {s.T, s.N})),
        y({s.T, s.N}, kUnset<Real>),
        dx({s.T, s.K}, kUnset<Real>),
        dx_sum(shared_random<Real>("dx_sum", {s.T, s.K})),
        dw(shared_random<Compute<Real>>("dw", {s.N, s.K})) {}

  void forward(Ops& ops) { ops.matmul_nt(kQueue, y, x, w); }
  void backward(Ops& ops) {
    ops.matmul_nn(kQueue, dx, dy, w);
    ops.matmul_nn_add(kQueue, dx_sum, dy, w);
    ops.matmul_tn_add(kQueue, dw, dy, x);
  }

  Sizes size;
  HostTensor<Real> x, w, dy, y, dx, dx_sum;
  HostTensor<Compute<Real>> dw;
};

// The same per expert: expert e owns rows [begin[e], begin[e + 1]).
template <typename Real>
struct GroupedCase {
  GroupedCase(std::vector<int32_t> bounds, int64_t N_, int64_t K_)
      : R(bounds.back()),
        L(static_cast<int64_t>(bounds.size()) - 1),
        N(N_),
        K(K_),
        begin(host_tensor({L + 1}, std::move(bounds))),
        x(shared_random<Real>("x", {R, K})),
        w(shared_random<Real>("w", {L, N, K})),
        dy(shared_random<Real>("dy", {R, N})),
        y({R, N}, kUnset<Real>),
        dx({R, K}, kUnset<Real>),
        dx_sum(shared_random<Real>("dx_sum", {R, K})),
        dw(shared_random<Compute<Real>>("dw", {L, N, K})) {}

  void forward(Ops& ops) { ops.grouped_matmul_nt(kQueue, y, x, w, begin); }
  void backward(Ops& ops) {
    ops.grouped_matmul_nn(kQueue, dx, dy, w, begin);
    ops.grouped_matmul_nn_add(kQueue, dx_sum, dy, w, begin);
    ops.grouped_matmul_tn_add(kQueue, dw, dy, x, begin);
  }

  int64_t expert_of(int64_t row) const {
    int64_t e = 0;
    while (row >= begin.values[static_cast<size_t>(e) + 1]) ++e;
    return e;
  }

  int64_t R, L, N, K;
  HostTensor<int32_t> begin;
  HostTensor<Real> x, w, dy, y, dx, dx_sum;
  HostTensor<Compute<Real>> dw;
};

// Experts without rows at the start, in the middle and at the end; no rows at all; one expert.
const std::vector<std::vector<int32_t>> kBounds = {
    {0, 0, 3, 3, 10, 10}, {0, 0, 0}, {0, 4}, {0, 150, 151, 151, 290, 300}, {0, 1, 2, 3, 4}};

constexpr Sizes kGroupedSizes[] = {{0, 5, 3}, {0, 40, 50}, {0, 3, 0}, {0, 0, 3}, {0, 200, 150}};

// The same numbers in f64 and in one of the dtypes that may be mixed.
struct MixedOperand {
  MixedOperand(const char* name, std::initializer_list<int64_t> shape, bool bf16)
      : is_bf16(bf16),
        wide(shared_random<double>(name, shape)),
        f32(shared_random<float>(name, shape)),
        narrow(shared_random<BFloat16>(name, shape)) {}

  Tensor view() { return is_bf16 ? narrow.view() : f32.view(); }
  double error() const {
    return is_bf16 ? error_beyond_rounding(output(narrow).values, wide.values)
                   : relative_error(f32.values, wide.values);
  }

  bool is_bf16;
  HostTensor<double> wide;
  HostTensor<float> f32;
  HostTensor<BFloat16> narrow;
};

// One of the four products, grouped if `begin` is given.
void run_product(Ops& ops, int product, Tensor y, Tensor x, Tensor w, Tensor begin) {
  if (begin.is_none()) {
    if (product == 0) ops.matmul_nt(kQueue, y, x, w);
    if (product == 1) ops.matmul_nn(kQueue, x, y, w);
    if (product == 2) ops.matmul_nn_add(kQueue, x, y, w);
    if (product == 3) ops.matmul_tn_add(kQueue, w, y, x);
  } else {
    if (product == 0) ops.grouped_matmul_nt(kQueue, y, x, w, begin);
    if (product == 1) ops.grouped_matmul_nn(kQueue, x, y, w, begin);
    if (product == 2) ops.grouped_matmul_nn_add(kQueue, x, y, w, begin);
    if (product == 3) ops.grouped_matmul_tn_add(kQueue, w, y, x, begin);
  }
}

template <typename Real>
auto at(const HostTensor<Real>& matrix, int64_t stride) {
  return [&matrix, stride](int64_t i, int64_t j) {
    return static_cast<double>(matrix.values[static_cast<size_t>(i * stride + j)]);
  };
}

template <typename F>
auto transposed(const F& element) {
  return [element](int64_t i, int64_t j) { return element(j, i); };
}

}  // namespace

TEST_CASE("matrix products against plain loops") {
  for (const int threads : {1, 2, 3, 4}) {
    CpuBackend backend(threads);
    for (const Sizes s : kSizes) {
      INFO(threads << " threads, T " << s.T << " N " << s.N << " K " << s.K);
      LinearCase<double> c(s);
      const auto x = at(c.x, s.K), w = at(c.w, s.K), dy = at(c.dy, s.N);
      const auto y = naive_product(s.T, s.N, s.K, x, transposed(w));
      const auto dx = naive_product(s.T, s.K, s.N, dy, w);
      const auto dx_sum = naive_product(s.T, s.K, s.N, dy, w, c.dx_sum.values);
      const auto dw = naive_product(s.N, s.K, s.T, transposed(dy), x, c.dw.values);
      c.forward(backend.ops());
      c.backward(backend.ops());
      CHECK(relative_error(c.y.values, y) <= 1e-14);
      CHECK(relative_error(c.dx.values, dx) <= 1e-14);
      CHECK(relative_error(c.dx_sum.values, dx_sum) <= 1e-14);
      CHECK(relative_error(c.dw.values, dw) <= 1e-14);
    }
  }
}

TEST_CASE("grouped matrix products against plain loops") {
  for (const int threads : {1, 2, 3, 4}) {
    CpuBackend backend(threads);
    for (const auto& bounds : kBounds)
      for (const Sizes s : kGroupedSizes) {
        INFO(threads << " threads, " << bounds.back() << " rows of " << bounds.size() - 1
                     << " experts, N " << s.N << " K " << s.K);
        GroupedCase<double> c(bounds, s.N, s.K);
        std::vector<double> y(c.y.values.size()), dx(c.dx.values.size());
        std::vector<double> dx_sum = c.dx_sum.values, dw = c.dw.values;
        for (int64_t r = 0; r < c.R; ++r)
          for (int64_t n = 0; n < c.N; ++n)
            for (int64_t k = 0; k < c.K; ++k) {
              const auto i_w = static_cast<size_t>((c.expert_of(r) * c.N + n) * c.K + k);
              const auto i_x = static_cast<size_t>(r * c.K + k);
              const auto i_y = static_cast<size_t>(r * c.N + n);
              y[i_y] += c.x.values[i_x] * c.w.values[i_w];
              dx[i_x] += c.dy.values[i_y] * c.w.values[i_w];
              dx_sum[i_x] += c.dy.values[i_y] * c.w.values[i_w];
              dw[i_w] += c.dy.values[i_y] * c.x.values[i_x];
            }
        c.forward(backend.ops());
        c.backward(backend.ops());
        CHECK(relative_error(c.y.values, y) <= 1e-14);
        CHECK(relative_error(c.dx.values, dx) <= 1e-14);
        CHECK(relative_error(c.dx_sum.values, dx_sum) <= 1e-14);
        CHECK(relative_error(c.dw.values, dw) <= 1e-14);
      }
  }
}

TEST_CASE("matrix products in f32") {
  for (const Sizes s : kSizes)
    check_f32(1e-6, [s](Ops& ops, auto zero) {
      LinearCase<decltype(zero)> c(s);
      c.forward(ops);
      c.backward(ops);
      return outputs(c.y, c.dx, c.dx_sum, c.dw);
    });
  for (const auto& bounds : kBounds)
    check_f32(1e-6, [&](Ops& ops, auto zero) {
      GroupedCase<decltype(zero)> c(bounds, 40, 50);
      c.forward(ops);
      c.backward(ops);
      return outputs(c.y, c.dx, c.dx_sum, c.dw);
    });
}

TEST_CASE("matrix products in bf16") {
  // The last is larger than a block of each of its sizes, in every product.
  std::vector<Sizes> sizes(std::begin(kSizes), std::end(kSizes));
  sizes.push_back({1100, 1050, 1060});
  for (const Sizes& s : sizes) {
    INFO("T " << s.T << " N " << s.N << " K " << s.K);
    const auto run = [s](Ops& ops, auto zero) {
      LinearCase<decltype(zero)> c(s);
      c.forward(ops);
      c.backward(ops);
      return outputs(c.y, c.dx, c.dx_sum, c.dw);
    };
    check_bf16(1e-6, run, false);
  }
  for (const auto& bounds : kBounds)
    check_bf16(
        1e-6,
        [&](Ops& ops, auto zero) {
          GroupedCase<decltype(zero)> c(bounds, 40, 50);
          c.forward(ops);
          c.backward(ops);
          return outputs(c.y, c.dx, c.dx_sum, c.dw);
        },
        false);
}

TEST_CASE("matrix products of bf16 and f32 in any mixture") {
  for (const int threads : {1, 3}) {
    CpuBackend backend(threads);
    Ops& ops = backend.ops();
    for (int mixture = 0; mixture < 8; ++mixture) {
      INFO(threads << " threads, bf16 among y, x, w: bits of " << mixture);
      const auto is_bf16 = [&](int operand) { return (mixture >> operand & 1) != 0; };
      const Sizes s = {130, 100, 90};
      const auto bounds = host_tensor<int32_t>({4}, {0, 50, 50, 130});
      // Plain, then in three groups, of which the second is empty.
      for (const bool is_grouped : {false, true})
        for (int product = 0; product < 4; ++product) {
          INFO((is_grouped ? "grouped, product " : "product ") << product);
          MixedOperand y("y", {s.T, s.N}, is_bf16(0)), x("x", {s.T, s.K}, is_bf16(1));
          MixedOperand w = is_grouped ? MixedOperand("w", {3, s.N, s.K}, is_bf16(2))
                                      : MixedOperand("w", {s.N, s.K}, is_bf16(2));
          HostTensor<int32_t> begin = bounds;
          const auto run = [&](Tensor y_TN, Tensor x_TK, Tensor w_NK) {
            run_product(ops, product, y_TN, x_TK, w_NK, is_grouped ? begin.view() : Tensor());
          };
          run(y.wide, x.wide, w.wide);
          run(y.view(), x.view(), w.view());
          for (MixedOperand* operand : {&y, &x, &w}) CHECK(operand->error() <= 1e-6);
        }
    }
  }
}

TEST_CASE("matrix products have the same bits every time") {
  const auto run = [](Ops& ops, auto zero) {
    GroupedCase<decltype(zero)> grouped(kBounds[3], 40, 50);
    LinearCase<decltype(zero)> plain({130, 100, 90});
    grouped.forward(ops);
    grouped.backward(ops);
    plain.forward(ops);
    plain.backward(ops);
    return outputs(grouped.y, grouped.dx_sum, grouped.dw, plain.y, plain.dx, plain.dw);
  };
  CpuBackend backend(3);
  const Outputs first = run(backend.ops(), float{}), narrow = run(backend.ops(), BFloat16{});
  for (int i = 0; i < 20; ++i) {
    CHECK(same_bits(run(backend.ops(), float{}), first));
    CHECK(same_bits(run(backend.ops(), BFloat16{}), narrow));
  }
}

TEST_CASE("gradients of the matrix products") {
  CpuBackend backend(1);
  LinearCase<double> linear({4, 5, 3});
  const std::vector<double> dx_before = linear.dx_sum.values, dw_before = linear.dw.values;
  linear.backward(backend.ops());
  const auto minus = [](std::vector<double> a, const std::vector<double>& b) {
    std::transform(a.begin(), a.end(), b.begin(), a.begin(), std::minus<>());
    return a;
  };
  const auto loss = [&] {
    linear.forward(backend.ops());
    return dot(linear.y.values, linear.dy.values);
  };
  check_gradient("x", linear.x, linear.dx.values, loss);
  check_gradient("x, accumulated", linear.x, minus(linear.dx_sum.values, dx_before), loss);
  check_gradient("w", linear.w, minus(linear.dw.values, dw_before), loss);

  GroupedCase<double> grouped({0, 2, 2, 7}, 5, 3);
  const std::vector<double> grouped_dx = grouped.dx_sum.values, grouped_dw = grouped.dw.values;
  grouped.backward(backend.ops());
  const auto grouped_loss = [&] {
    grouped.forward(backend.ops());
    return dot(grouped.y.values, grouped.dy.values);
  };
  check_gradient("x of experts", grouped.x, grouped.dx.values, grouped_loss);
  check_gradient("x of experts, accumulated", grouped.x, minus(grouped.dx_sum.values, grouped_dx),
                 grouped_loss);
  check_gradient("w of experts", grouped.w, minus(grouped.dw.values, grouped_dw), grouped_loss);
}
