// From the dtype of a tensor to a template on float, double or BFloat16.
#pragma once

#include "core/dtype.h"

namespace switchyard {

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
