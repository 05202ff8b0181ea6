// Activations times gate weights on CUDA.
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t rows, width;
};

template <typename Real>
Outputs activate(Ops& ops, Placement& place, Sizes s, Activation activation, bool has_weight,
                 double std) {
  const int64_t R = s.rows, F = s.width;
  const bool has_up = activation == Activation::kSwiGLU;
  auto gate = shared_random<Real>("gate", {R, F}, std), up = shared_random<Real>("up", {R, F}),
       dy = shared_random<Real>("dy", {R, F});
  auto weight = shared_random<Compute<Real>>("weight", {R});
  HostTensor<Real> y({R, F}, kUnset<Real>), dgate = y, dup = y;
  HostTensor<Compute<Real>> dweight({R}, kUnset<Compute<Real>>);
  Tensor y_RF = place(y), gate_RF = place(gate), dgate_RF = place(dgate), dup_RF, up_RF, dweight_R,
         weight_R;
  if (has_up) {
    up_RF = place(up);
    dup_RF = place(dup);
  }
  if (has_weight) {
    weight_R = place(weight);
    dweight_R = place(dweight);
  }
  ops.activation_forward(kQueue, y_RF, gate_RF, up_RF, weight_R, activation);
  ops.activation_backward(kQueue, dgate_RF, dup_RF, dweight_R, place(dy), gate_RF, up_RF, weight_R,
                          activation);
  place.fetch(y, y_RF);
  place.fetch(dgate, dgate_RF);
  Outputs result = outputs(y, dgate);
  if (has_up) {
    place.fetch(dup, dup_RF);
    result.push_back(output(dup));
  }
  if (has_weight) {
    place.fetch(dweight, dweight_R);
    result.push_back(output(dweight));
  }
  return result;
}

}  // namespace

TEST_CASE("activations and their gradients, with and without gate weights") {
  for (const Activation activation : {Activation::kSwiGLU, Activation::kReLU, Activation::kGELU})
    for (const bool has_weight : {false, true})
      for (const Sizes& s : {Sizes{0, 16}, Sizes{1, 1}, Sizes{3, 7}, Sizes{5, 1032}, Sizes{33, 264},
                             Sizes{130, 8}}) {
        INFO("activation " << static_cast<int>(activation) << ", " << s.rows << " rows of "
                           << s.width << (has_weight ? ", weights" : ""));
        check_on_cuda(2e-6, [&](Ops& ops, Placement& place, auto zero) {
          return activate<decltype(zero)>(ops, place, s, activation, has_weight, 2.0);
        });
      }
}

TEST_CASE("activations far from zero do not overflow") {
  for (const Activation activation : {Activation::kSwiGLU, Activation::kReLU, Activation::kGELU})
    check_on_cuda(2e-6, [&](Ops& ops, Placement& place, auto zero) {
      return activate<decltype(zero)>(ops, place, {9, 40}, activation, true, 200.0);
    });
}
