// SwiGLU, ReLU and GELU times the gate weight of a row; and the exponential inside them.
#include "backend/cpu/exp.h"
#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr Activation kActivations[] = {Activation::kSwiGLU, Activation::kReLU, Activation::kGELU};

template <typename Real>
struct ActivationCase {
  ActivationCase(Activation activation_, bool is_weighted, int64_t R_, int64_t F_)
      : activation(activation_),
        R(R_),
        F(F_),
        gate(shared_random<Real>("gate", {R, F}, 2)),
        up_values(shared_random<Real>("up", {R, F})),
        weight_values(shared_random<Compute<Real>>("weight", {R})),
        dy(shared_random<Real>("dy", {R, F})),
        y({R, F}, kUnset<Real>),
        dgate({R, F}, kUnset<Real>),
        dup_values({R, F}, kUnset<Real>),
        dweight_values({R}, kUnset<Compute<Real>>),
        has_up(activation == Activation::kSwiGLU),
        has_weight(is_weighted) {
    for (Real& g : gate.values)  // away from the corner of ReLU, which has no derivative
      if (std::abs(to_double(g)) < 0.125) g = Real{0.25f};
  }

  void forward(Ops& ops) {
    ops.activation_forward(kQueue, y, gate, has_up ? up_values.view() : Tensor(),
                           has_weight ? weight_values.view() : Tensor(), activation);
  }
  void backward(Ops& ops) {
    ops.activation_backward(kQueue, dgate, has_up ? dup_values.view() : Tensor(),
                            has_weight ? dweight_values.view() : Tensor(), dy, gate,
                            has_up ? up_values.view() : Tensor(),
                            has_weight ? weight_values.view() : Tensor(), activation);
  }
  // What the operation writes.
  Outputs results() {
    Outputs all = outputs(y, dgate);
    if (has_up) all.push_back(outputs(dup_values)[0]);
    if (has_weight) all.push_back(outputs(dweight_values)[0]);
    return all;
  }

  Activation activation;
  int64_t R, F;
  HostTensor<Real> gate, up_values;
  HostTensor<Compute<Real>> weight_values;
  HostTensor<Real> dy, y, dgate, dup_values;
  HostTensor<Compute<Real>> dweight_values;
  bool has_up, has_weight;
};

double naive_activation(Activation activation, double x) {
  switch (activation) {
    case Activation::kSwiGLU:
      return x / (1 + std::exp(-x));
    case Activation::kReLU:
      return std::max(x, 0.0);
    case Activation::kGELU:
      return x * std::erfc(-x / std::sqrt(2.0)) / 2;
  }
  return kUnset<double>;
}

}  // namespace

TEST_CASE("activations against plain loops") {
  CpuBackend backend(2);
  for (const Activation activation : kActivations)
    for (const bool weighted : {false, true}) {
      ActivationCase<double> c(activation, weighted, 250, 37);
      std::vector<double> y;
      for (size_t i = 0; i < c.gate.values.size(); ++i)
        y.push_back(naive_activation(activation, c.gate.values[i]) *
                    (c.has_up ? c.up_values.values[i] : 1) *
                    (weighted ? c.weight_values.values[i / 37] : 1));
      c.forward(backend.ops());
      CHECK(relative_error(c.y.values, y) <= 1e-14);
    }
}

TEST_CASE("gradients of the activations") {
  CpuBackend backend(1);
  for (const Activation activation : kActivations)
    for (const bool weighted : {false, true}) {
      INFO("activation " << static_cast<int>(activation) << (weighted ? ", weighted" : ""));
      ActivationCase<double> c(activation, weighted, 5, 7);
      c.backward(backend.ops());
      const auto loss = [&] {
        c.forward(backend.ops());
        return dot(c.y.values, c.dy.values);
      };
      check_gradient("gate", c.gate, c.dgate.values, loss);
      if (c.has_up) check_gradient("up", c.up_values, c.dup_values.values, loss);
      if (weighted) check_gradient("weight", c.weight_values, c.dweight_values.values, loss);
    }
}

TEST_CASE("activations in f32, in bf16 and with several threads") {
  for (const Activation activation : kActivations)
    for (const bool weighted : {false, true}) {
      const auto run = [=](Ops& ops, auto zero) {
        ActivationCase<decltype(zero)> c(activation, weighted, 500, 37);
        c.forward(ops);
        c.backward(ops);
        return c.results();
      };
      check_f32(1e-6, run);
      check_bf16(1e-6, run);
      check_thread_counts(run);
    }
}

TEST_CASE("activations of very large inputs are finite") {
  CpuBackend backend(1);
  for (const Activation activation : kActivations) {
    ActivationCase<float> c(activation, true, 1, 6);
    c.gate.values = {-1e4f, -200.0f, -90.0f, 90.0f, 200.0f, 1e4f};
    std::fill(c.up_values.values.begin(), c.up_values.values.end(), 1.0f);
    std::fill(c.dy.values.begin(), c.dy.values.end(), 1.0f);
    c.weight_values.values = {1.0f};
    c.forward(backend.ops());
    c.backward(backend.ops());
    for (size_t i = 0; i < 6; ++i) {
      const double x = static_cast<double>(c.gate.values[i]);
      CHECK_THAT(static_cast<double>(c.y.values[i]),
                 Catch::Matchers::WithinAbs(std::max(x, 0.0), 1e-30));
      CHECK_THAT(static_cast<double>(c.dgate.values[i]),
                 Catch::Matchers::WithinAbs(x > 0 ? 1.0 : 0.0, 1e-30));
    }
  }
}

TEST_CASE("the f32 exponential is within two units in the last place") {
  double worst = 0;
  for (double x = -86.99; x < 88; x += 0.0137) {
    const float narrow = static_cast<float>(x);
    const double exact = std::exp(static_cast<double>(narrow));
    worst = std::max(worst, std::abs(static_cast<double>(fast_exp(narrow)) - exact) / exact);
  }
  CHECK(worst <= 2 * 0x1.0p-23);
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(fast_exp(0.0f) == 1.0f);
  CHECK(fast_exp(-infinity) == 0.0f);
  CHECK(fast_exp(-87.0f) == 0.0f);
  CHECK(fast_exp(-1e30f) == 0.0f);
  CHECK(std::isfinite(fast_exp(infinity)));
  CHECK(fast_exp(infinity) > 1e38f);
  CHECK(std::isnan(fast_exp(std::nanf(""))));
}
