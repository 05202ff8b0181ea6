// Fills, copies, conversions, sums and random initial values on CUDA.
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

const std::vector<int64_t> kSizes = {0, 1, 7, 8, 9, 1000, 5003};

// run(ops, place) gives the same bits on CUDA as on the CPU.
template <typename Run>
void check_same_bits(const Run& run) {
  CpuBackend cpu(1);
  Placement host(nullptr);
  CudaDevice device(0);
  CudaOps ops(device);
  Placement there(device.stream({}));
  const Outputs expected = run(cpu.ops(), host), actual = run(ops, there);
  REQUIRE(actual.size() == expected.size());
  CHECK(same_bits(actual, expected));
}

// All elements but the first: an address that is not aligned for packets.
Tensor without_first(Tensor x) { return x.rows(1, x.dim(0) - 1); }

template <typename T>
void check_fill(double value) {
  check_same_bits([&](Ops& ops, Placement& place) {
    Outputs result;
    for (const int64_t size : kSizes) {
      HostTensor<T> aligned({size + 1}, T{}), shifted({size + 1}, T{});
      Tensor a = place(aligned), b = place(shifted);
      ops.fill(kQueue, a.rows(0, size), value);  // what is behind the range stays
      ops.fill(kQueue, without_first(b), value);
      place.fetch(aligned, a);
      place.fetch(shifted, b);
      result.push_back(output(aligned));
      result.push_back(output(shifted));
    }
    return result;
  });
}

template <typename To, typename From>
void check_convert() {
  check_same_bits([](Ops& ops, Placement& place) {
    Outputs result;
    for (const int64_t size : kSizes)
      for (const bool shift : {false, true}) {
        auto x = random_tensor<double>("x", {size + 1}, 100);
        HostTensor<From> from({size + 1});
        for (size_t i = 0; i < x.values.size(); ++i)
          store(from.values[i], static_cast<Compute<From>>(x.values[i]));
        HostTensor<To> to({size + 1}, kUnset<To>);
        Tensor source = place(from), target = place(to);
        if (shift)
          ops.convert(kQueue, without_first(target), without_first(source));
        else
          ops.convert(kQueue, target, source);
        place.fetch(to, target);
        if (shift) to.values[0] = To{};
        result.push_back(output(to));
      }
    return result;
  });
}

}  // namespace

TEST_CASE("fills of every dtype") {
  check_fill<float>(-0.1);
  check_fill<double>(1.0 / 3);
  check_fill<BFloat16>(1.0 / 3);
  check_fill<int32_t>(-100);
  check_fill<int64_t>(1e12);
  check_fill<uint8_t>(200);
}

TEST_CASE("conversions between all reals") {
  check_convert<float, float>();
  check_convert<float, double>();
  check_convert<float, BFloat16>();
  check_convert<double, float>();
  check_convert<double, double>();
  check_convert<double, BFloat16>();
  check_convert<BFloat16, float>();
  check_convert<BFloat16, double>();
  check_convert<BFloat16, BFloat16>();
}

TEST_CASE("a copy has the same bits, and may be of itself") {
  check_same_bits([](Ops& ops, Placement& place) {
    Outputs result;
    for (const int64_t size : kSizes) {
      auto x = random_tensor<float>("x", {size});
      HostTensor<float> y({size}, kUnset<float>);
      Tensor source = place(x), target = place(y);
      ops.copy(kQueue, target, source);
      ops.copy(kQueue, source, source);
      place.fetch(y, target);
      result.push_back(output(y));
    }
    return result;
  });
}

TEST_CASE("sums, in place too, at any address") {
  check_on_cuda(1e-7, [](Ops& ops, Placement& place, auto zero) {
    using Real = decltype(zero);
    Outputs result;
    for (const int64_t size : kSizes) {
      auto x = shared_random<Real>("x", {size + 1}), z = shared_random<Real>("z", {size + 1});
      HostTensor<Real> y({size + 1}, kUnset<Real>), twice = x;
      Tensor a = place(x), b = place(z), sum = place(y), again = place(twice);
      ops.add(kQueue, sum, a, b);
      ops.add(kQueue, without_first(a), without_first(a), without_first(b));
      ops.add(kQueue, again.rows(0, size), again.rows(0, size), again.rows(0, size));
      place.fetch(x, a);
      place.fetch(y, sum);
      place.fetch(twice, again);
      for (const auto* tensor : {&x, &y, &twice}) result.push_back(output(*tensor));
    }
    return result;
  });
}

TEST_CASE("initial values are those of the CPU") {
  const auto run = [](Ops& ops, Placement& place, auto zero) {
    using Real = decltype(zero);
    HostTensor<Real> x({37, 129}, kUnset<Real>), none({0, 5}), one({1, 1}, kUnset<Real>);
    Tensor there = place(x), empty = place(none), single = place(one);
    ops.init_normal(kQueue, there, 0.02, random_key(5, "weight"), int64_t{1} << 40, 1000);
    ops.init_normal(kQueue, empty, 0.02, 1, 2, 5);
    ops.init_normal(kQueue, single, 1.0, 1, 0, 1);
    place.fetch(x, there);
    place.fetch(one, single);
    return outputs(x, one);
  };
  check_on_cuda(1e-7, run, 1e-15);
  // The last bit of f64 shows in hardly any f32, and in no bf16 here.
  check_same_bits([&](Ops& ops, Placement& place) { return run(ops, place, BFloat16{}); });
}
