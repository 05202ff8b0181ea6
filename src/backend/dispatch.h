// From the dtype of a tensor to a template on float, double or BFloat16, and to what that computes
// in.
#pragma once

#include "core/dtype.h"

namespace switchyard {

template <typename Real>
struct ComputeType {
  using Type = Real;
};
template <>
struct ComputeType<BFloat16> {
  using Type = float;
};
// What values of Real are computed in: its accumulator dtype as a type.
template <typename Real>
using Compute = typename ComputeType<Real>::Type;

// For tensors of the accumulator dtype: calls function(float{}) or function(double{}).
template <typename Function>
void with_accumulator(DType dtype, const Function& function) {
  if (dtype == DType::kF64)
    function(double{});
  else
    function(float{});
}

// For tensors of reals: calls function(float{}), function(double{}) or function(BFloat16{}):
//   with_real(x.dtype(), [&](auto real) { scale<decltype(real)>(y, x); });
template <typename Function>
void with_real(DType dtype, const Function& function) {
  if (dtype == DType::kBF16)
    function(BFloat16{});
  else
    with_accumulator(dtype, function);
}

}  // namespace switchyard
