// with_real: from the dtype of a tensor to a template on float or double.
#pragma once

#include "core/dtype.h"

namespace switchyard {

// Calls function(float{}) or function(double{}):
//   with_real(x.dtype(), [&](auto real) { scale<decltype(real)>(y, x); });
template <typename Function>
void with_real(DType dtype, const Function& function) {
  if (dtype == DType::kF64)
    function(double{});
  else
    function(float{});
}

}  // namespace switchyard
