// Fills, copies, conversions, sums and initial values.
#include "backend/op_checks.h"
#include "core/random.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// Around the vector length, and more than several threads want.
constexpr int64_t kCounts[] = {0, 1, 7, 64, 1000, 16384, 100003};

// body(element of the dtype) for every dtype there is.
template <typename Body>
void for_each_dtype(const Body& body) {
  body(float{});
  body(double{});
  body(BFloat16{});
  body(int32_t{});
  body(int64_t{});
  body(uint8_t{});
}

}  // namespace

TEST_CASE("fill sets every element of every dtype") {
  for (const int threads : {1, 3}) {
    CpuBackend backend(threads);
    for_each_dtype([&](auto zero) {
      using Element = decltype(zero);
      for (const int64_t n : kCounts) {
        HostTensor<Element> x({n}, Element{1});
        backend.ops().fill(kQueue, x, 42);
        CHECK(x.values == std::vector<Element>(static_cast<size_t>(n), Element{42}));
      }
    });
    HostTensor<int32_t> negative({3});
    backend.ops().fill(kQueue, negative, kIgnoredTarget);
    CHECK(negative.values == std::vector<int32_t>(3, kIgnoredTarget));
    HostTensor<double> fraction({3});
    backend.ops().fill(kQueue, fraction, 0.1);
    CHECK(fraction.values == std::vector<double>(3, 0.1));
  }
}

TEST_CASE("copy moves the bits of every dtype, whatever the shape") {
  for (const int threads : {1, 3}) {
    CpuBackend backend(threads);
    for_each_dtype([&](auto zero) {
      using Element = decltype(zero);
      for (const int64_t n : kCounts) {
        HostTensor<Element> x({n}), y({1, n, 1}, Element{1});
        for (size_t i = 0; i < x.values.size(); ++i)
          x.values[i] = static_cast<Element>(static_cast<Compute<Element>>(i % 251));
        backend.ops().copy(kQueue, y, x);
        CHECK(y.values == x.values);
        backend.ops().copy(kQueue, y, y);
        CHECK(y.values == x.values);
      }
    });
  }
}

TEST_CASE("convert rounds to f32 and widens to f64 exactly") {
  CpuBackend backend(3);
  for (const int64_t n : kCounts) {
    auto wide = random_tensor<double>("wide", {n});
    HostTensor<float> narrow({n}, kUnset<float>), narrow_copy({n});
    HostTensor<double> back({n}, kUnset<double>), wide_copy({n});
    backend.ops().convert(kQueue, narrow, wide);
    backend.ops().convert(kQueue, back, narrow);
    backend.ops().convert(kQueue, narrow_copy, narrow);
    backend.ops().convert(kQueue, wide_copy, wide);
    std::vector<float> rounded;
    for (const double x : wide.values) rounded.push_back(static_cast<float>(x));
    CHECK(narrow.values == rounded);
    CHECK(back.values == std::vector<double>(rounded.begin(), rounded.end()));
    CHECK(narrow_copy.values == narrow.values);
    CHECK(wide_copy.values == wide.values);
  }
}

TEST_CASE("convert between bf16 and the others") {
  CpuBackend backend(3);
  for (const int64_t n : kCounts) {
    auto wide = random_tensor<double>("wide", {n});
    HostTensor<float> f32({n}), back({n}, kUnset<float>);
    HostTensor<BFloat16> from_f32({n}, kUnset<BFloat16>), from_f64 = from_f32, copy = from_f32;
    HostTensor<double> back_wide({n}, kUnset<double>);
    for (size_t i = 0; i < wide.values.size(); ++i)
      f32.values[i] = static_cast<float>(wide.values[i]);
    backend.ops().convert(kQueue, from_f32, f32);
    backend.ops().convert(kQueue, from_f64, wide);
    backend.ops().convert(kQueue, copy, from_f32);
    backend.ops().convert(kQueue, back, from_f32);
    backend.ops().convert(kQueue, back_wide, from_f32);
    CHECK(error_beyond_rounding(output(from_f32).values, output(f32).values) == 0);
    CHECK(from_f64.values == from_f32.values);
    CHECK(copy.values == from_f32.values);
    CHECK(output(back).values == output(from_f32).values);
    CHECK(back_wide.values == output(from_f32).values);
  }
}

TEST_CASE("add, also in place of either operand") {
  for (const int threads : {1, 3}) {
    CpuBackend backend(threads);
    for (const int64_t n : kCounts) {
      auto a = random_tensor<double>("a", {n}), b = random_tensor<double>("b", {n});
      std::vector<double> sum, twice;
      for (size_t i = 0; i < a.values.size(); ++i) sum.push_back(a.values[i] + b.values[i]);
      for (const double s : sum) twice.push_back(s + s);
      HostTensor<double> y({n}, kUnset<double>), in_a = a, in_b = b;
      backend.ops().add(kQueue, y, a, b);
      backend.ops().add(kQueue, in_a, in_a, b);
      backend.ops().add(kQueue, in_b, a, in_b);
      CHECK(y.values == sum);
      CHECK(in_a.values == sum);
      CHECK(in_b.values == sum);
      backend.ops().add(kQueue, y, y, y);
      CHECK(y.values == twice);
    }
  }
}

TEST_CASE("gradient of add") {
  CpuBackend backend(1);
  auto a = random_tensor<double>("a", {6}), b = random_tensor<double>("b", {6});
  auto dy = random_tensor<double>("dy", {6});
  HostTensor<double> y({6});
  const auto loss = [&] {
    backend.ops().add(kQueue, y, a, b);
    return dot(y.values, dy.values);
  };
  check_gradient("a", a, dy.values, loss);
  check_gradient("b", b, dy.values, loss);
}

TEST_CASE("add in f32, in bf16 and with several threads") {
  const auto run = [](Ops& ops, auto zero) {
    auto a = shared_random<decltype(zero)>("a", {100003});
    auto b = shared_random<decltype(zero)>("b", {100003});
    ops.add(kQueue, a, a, b);
    return outputs(a);
  };
  check_f32(1e-7, run);
  check_bf16(1e-7, run);
  check_thread_counts(run);
}

TEST_CASE("initial values are numbers of a stream by global index") {
  CpuBackend backend(3);
  const uint64_t key = random_key(3, "layers.0.weight");
  HostTensor<double> all({50, 100}), part({10, 100}), columns({50, 30});
  backend.ops().init_normal(kQueue, all, 0.02, key, 7, 100);
  for (const size_t i : {size_t{0}, size_t{1}, size_t{4999}})
    CHECK_THAT(all.values[i], Catch::Matchers::WithinRel(0.02 * random_normal(key, 7 + i), 1e-14));
  // A shard that begins elsewhere holds the same numbers.
  backend.ops().init_normal(kQueue, part, 0.02, key, 7 + 3000, 100);
  CHECK(std::equal(part.values.begin(), part.values.end(), all.values.begin() + 3000));
  backend.ops().init_normal(kQueue, columns, 0.02, key, 7 + 60, 100);
  for (size_t row = 0; row < 50; ++row)
    CHECK(std::equal(columns.values.begin() + static_cast<ptrdiff_t>(row * 30),
                     columns.values.begin() + static_cast<ptrdiff_t>(row * 30 + 30),
                     all.values.begin() + static_cast<ptrdiff_t>(row * 100 + 60)));
  CHECK_THAT(std::sqrt(dot(all.values, all.values) / 5000), Catch::Matchers::WithinRel(0.02, 0.05));
}

TEST_CASE("initial values in f32, in bf16 and with several threads") {
  const auto run = [](Ops& ops, auto zero) {
    HostTensor<decltype(zero)> x({50, 100}, kUnset<decltype(zero)>);
    ops.init_normal(kQueue, x, 0.02, 99, 1000, 120);
    return outputs(x);
  };
  check_f32(1e-7, run);
  check_bf16(1e-7, run);
  check_thread_counts(run);
}
