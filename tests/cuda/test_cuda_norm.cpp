// RMSNorm on CUDA.
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t tokens, width;
};
// Zero rows and one, widths that fit no packets, several parts of the sums over rows, widths of
// several columns of blocks; rows that with the static arrays are just more than 48 KiB.
const std::vector<Sizes> kSizes = {{0, 8},    {1, 3},    {1, 64},   {3, 7},    {63, 65}, {64, 24},
                                   {65, 264}, {130, 40}, {2, 1032}, {7, 2200}, {1, 6144}};

template <typename Real>
Outputs norm(Ops& ops, Placement& place, Sizes s, bool of_sum, bool has_residual) {
  const int64_t T = s.tokens, D = s.width;
  auto x = shared_random<Real>("x", {T, D}), delta = shared_random<Real>("delta", {T, D}),
       weight = shared_random<Real>("weight", {D}), dy = shared_random<Real>("dy", {T, D}),
       dresidual = shared_random<Real>("dresidual", {T, D});
  HostTensor<Real> y({T, D}, kUnset<Real>), sum = y, dx = y;
  HostTensor<Compute<Real>> inv_rms({T}, kUnset<Compute<Real>>), dweight({D}, Compute<Real>{3});
  Tensor x_TD = place(x), y_TD = place(y), sum_TD = place(sum), dy_TD = place(dy),
         dx_TD = place(dx), inv_rms_T = place(inv_rms), weight_D = place(weight),
         dweight_D = place(dweight), delta_TD = place(delta), dresidual_TD = place(dresidual);
  ops.rmsnorm_forward(kQueue, y_TD, of_sum ? sum_TD : Tensor(), inv_rms_T, x_TD,
                      of_sum ? delta_TD : Tensor(), weight_D, 1e-5);
  const Tensor input = of_sum ? sum_TD : x_TD;
  ops.rmsnorm_backward(kQueue, dx_TD, dy_TD, has_residual ? dresidual_TD : Tensor(), input,
                       inv_rms_T, weight_D);
  ops.rmsnorm_weight_backward(kQueue, dweight_D, dy_TD, input, inv_rms_T);
  place.fetch(y, y_TD);
  place.fetch(inv_rms, inv_rms_T);
  place.fetch(dx, dx_TD);
  place.fetch(dweight, dweight_D);
  if (!of_sum) return outputs(y, inv_rms, dx, dweight);
  place.fetch(sum, sum_TD);
  return outputs(y, inv_rms, dx, dweight, sum);
}

}  // namespace

TEST_CASE("RMSNorm, its gradient and that of its weight") {
  for (const Sizes& s : kSizes)
    for (const bool has_residual : {false, true}) {
      INFO(s.tokens << " tokens of " << s.width);
      check_on_cuda(2e-6, [&](Ops& ops, Placement& place, auto zero) {
        return norm<decltype(zero)>(ops, place, s, false, has_residual);
      });
    }
}

TEST_CASE("RMSNorm of a sum") {
  for (const Sizes& s : kSizes) {
    INFO(s.tokens << " tokens of " << s.width);
    // In bf16 it is that of the sum as it is stored: f64 is given sums that bf16 holds exactly.
    check_on_cuda(2e-6, [&](Ops& ops, Placement& place, auto zero) {
      using Real = decltype(zero);
      const int64_t T = s.tokens, D = s.width;
      auto x = shared_random<Real>("x", {T, D}), delta = shared_random<Real>("delta", {T, D}),
           weight = shared_random<Real>("weight", {D});
      for (auto* tensor : {&x, &delta})  // multiples of 1/16 up to 7: sums have 8 bits
        for (Real& value : tensor->values)
          store(value, static_cast<Compute<Real>>(
                           std::clamp(std::round(16 * to_double(value)) / 16, -7.0, 7.0)));
      HostTensor<Real> y({T, D}, kUnset<Real>), sum = y;
      HostTensor<Compute<Real>> inv_rms({T}, kUnset<Compute<Real>>);
      Tensor y_TD = place(y), sum_TD = place(sum), inv_rms_T = place(inv_rms);
      ops.rmsnorm_forward(kQueue, y_TD, sum_TD, inv_rms_T, place(x), place(delta), place(weight),
                          1e-5);
      place.fetch(y, y_TD);
      place.fetch(sum, sum_TD);
      place.fetch(inv_rms, inv_rms_T);
      return outputs(y, sum, inv_rms);
    });
  }
}

TEST_CASE("RMSNorm of a sum in bf16 is that of the sum as it is stored, as on the CPU") {
  CpuBackend cpu(1);
  CudaDevice device(0);
  CudaOps ops(device);
  Placement host(nullptr), there(device.stream({}));
  const Outputs expected = norm<BFloat16>(cpu.ops(), host, {33, 264}, true, true);
  const Outputs actual = norm<BFloat16>(ops, there, {33, 264}, true, true);
  CHECK(actual[4].values == expected[4].values);                        // the sum
  CHECK(relative_error(actual[1].values, expected[1].values) <= 2e-7);  // inv_rms, of it
  CHECK(error_beyond_rounding(actual[0].values, expected[0].values) <= 1e-6);
}
