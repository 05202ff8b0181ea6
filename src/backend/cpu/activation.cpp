// The activation of a feed-forward network times the gate weight of its row.
#include <cmath>
#include <numbers>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/exp.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/storage.h"
#include "backend/dispatch.h"

namespace switchyard {
namespace {

// value = act(x), slope = act'(x)
template <typename Real>
struct Point {
  Real value, slope;
};

struct Silu {
  template <typename Real>
  static Point<Real> at(Real x) {
    const Real sigmoid = Real{1} / (Real{1} + fast_exp(-x));
    return {x * sigmoid, sigmoid * (Real{1} + x * (Real{1} - sigmoid))};
  }
};

struct Relu {
  template <typename Real>
  static Point<Real> at(Real x) {
    return {x > 0 ? x : Real{0}, x > 0 ? Real{1} : Real{0}};
  }
};

struct Gelu {
  template <typename Real>
  static Point<Real> at(Real x) {
    const Real cdf = Real{0.5} * (Real{1} + std::erf(x / std::numbers::sqrt2_v<Real>));
    const Real pdf = fast_exp(Real{-0.5} * x * x) * std::numbers::inv_sqrtpi_v<Real> /
                     std::numbers::sqrt2_v<Real>;
    return {x * cdf, cdf + x * pdf};
  }
};

template <typename Act, typename Real>
void forward_row(Real* __restrict y, const Real* __restrict gate, const Real* __restrict up,
                 Compute<Real> weight, int64_t F) {
  if (up != nullptr) {
#pragma omp simd
    for (int64_t f = 0; f < F; ++f)
      store(y[f], Act::at(load(gate[f])).value * load(up[f]) * weight);
  } else {
#pragma omp simd
    for (int64_t f = 0; f < F; ++f) store(y[f], Act::at(load(gate[f])).value * weight);
  }
}

// Returns the gradient of the row's weight.
template <typename Act, typename Real>
Compute<Real> backward_row(Real* __restrict dgate, Real* __restrict dup, const Real* __restrict dy,
                           const Real* __restrict gate, const Real* __restrict up,
                           Compute<Real> weight, int64_t F) {
  Compute<Real> dweight = 0;
  if (up != nullptr) {
#pragma omp simd reduction(+ : dweight)
    for (int64_t f = 0; f < F; ++f) {
      const Point<Compute<Real>> act = Act::at(load(gate[f]));
      dweight += load(dy[f]) * act.value * load(up[f]);
      store(dgate[f], load(dy[f]) * weight * load(up[f]) * act.slope);
      store(dup[f], load(dy[f]) * weight * act.value);
    }
  } else {
#pragma omp simd reduction(+ : dweight)
    for (int64_t f = 0; f < F; ++f) {
      const Point<Compute<Real>> act = Act::at(load(gate[f]));
      dweight += load(dy[f]) * act.value;
      store(dgate[f], load(dy[f]) * weight * act.slope);
    }
  }
  return dweight;
}

template <typename Body>
void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kSwiGLU:
      return body(Silu{});
    case Activation::kReLU:
      return body(Relu{});
    case Activation::kGELU:
      return body(Gelu{});
  }
}

template <typename Real>
Real* row_of(Tensor tensor, int64_t row, int64_t width) {
  return tensor.is_none() ? nullptr : tensor.data<Real>() + row * width;
}

template <typename Weight>
Weight weight_of(Tensor weight, int64_t row) {
  return weight.is_none() ? Weight{1} : weight.data<Weight>()[row];
}

}  // namespace

void CpuOps::do_activation_forward(Queue, Tensor y, Tensor gate, Tensor up, Tensor weight,
                                   Activation activation) {
  with_real(gate.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t F = gate.dim(1);
    with_activation(activation, [&](auto act) {
      parallel_for(num_threads_, gate.dim(0), rows_per_task(4 * F),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t r = begin; r < end; ++r)
                       forward_row<decltype(act)>(row_of<Real>(y, r, F), row_of<Real>(gate, r, F),
                                                  row_of<Real>(up, r, F),
                                                  weight_of<Compute<Real>>(weight, r), F);
                   });
    });
  });
}

void CpuOps::do_activation_backward(Queue, Tensor dgate, Tensor dup, Tensor dweight, Tensor dy,
                                    Tensor gate, Tensor up, Tensor weight, Activation activation) {
  with_real(gate.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t F = gate.dim(1);
    with_activation(activation, [&](auto act) {
      parallel_for(num_threads_, gate.dim(0), rows_per_task(4 * F),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t r = begin; r < end; ++r) {
                       const Compute<Real> gradient = backward_row<decltype(act)>(
                           row_of<Real>(dgate, r, F), row_of<Real>(dup, r, F),
                           row_of<Real>(dy, r, F), row_of<Real>(gate, r, F), row_of<Real>(up, r, F),
                           weight_of<Compute<Real>>(weight, r), F);
                       if (!dweight.is_none()) dweight.data<Compute<Real>>()[r] = gradient;
                     }
                   });
    });
  });
}

}  // namespace switchyard
