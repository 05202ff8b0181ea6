// The activation of a feed-forward network times the gate weight of its row.
#include <cmath>
#include <numbers>

#include "backend/cuda/chunk.cuh"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/reduce.cuh"

namespace switchyard {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
constexpr int kBlocks = 4;  // that a multiprocessor has registers for

// value = act(x), slope = act'(x)
template <typename Real>
struct Point {
  Real value, slope;
};

struct Silu {
  template <typename Real>
  static __device__ __forceinline__ Point<Real> at(Real x) {
    const Real sigmoid = Real{1} / (Real{1} + std::exp(-x));
    return {x * sigmoid, sigmoid * (Real{1} + x * (Real{1} - sigmoid))};
  }
};

struct Relu {
  template <typename Real>
  static __device__ __forceinline__ Point<Real> at(Real x) {
    return {x > 0 ? x : Real{0}, x > 0 ? Real{1} : Real{0}};
  }
};

struct Gelu {
  template <typename Real>
  static __device__ __forceinline__ Point<Real> at(Real x) {
    constexpr Real kInverseSqrt2 = 1 / std::numbers::sqrt2_v<Real>;
    const Real cdf = Real{0.5} * (Real{1} + std::erf(x * kInverseSqrt2));
    const Real pdf =
        std::exp(Real{-0.5} * x * x) * (std::numbers::inv_sqrtpi_v<Real> * kInverseSqrt2);
    return {x * cdf, cdf + x * pdf};
  }
};

// One block for each row; a thread takes chunks of it, in turns. up and weight may be null.
// Reads R F Real of the gate and of up, R of the weight; writes R F of y.
template <int kWidth, typename Act, typename Real>
__global__ void __launch_bounds__(kThreads, kBlocks)
    activation_forward_kernel(Real* __restrict__ y, const Real* __restrict__ gate,
                              const Real* __restrict__ up, const Compute<Real>* __restrict__ weight,
                              int64_t F) {
  const int64_t begin = blockIdx.x * F;
  const Compute<Real> factor = weight == nullptr ? Compute<Real>{1} : weight[blockIdx.x];
  for (int64_t f = threadIdx.x * kWidth; f < F; f += kThreads * kWidth) {
    auto value = load_chunk<kWidth>(gate + begin + f);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) value.value[i] = Act::at(value.value[i]).value;
    if (up != nullptr) {
      const auto other = load_chunk<kWidth>(up + begin + f);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) value.value[i] *= other.value[i];
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) value.value[i] *= factor;
    store_chunk(y + begin + f, value);
  }
}

// Blocks and threads as in the forward. up and dup, weight and dweight may be null. The gradient of
// the weight is summed in Compute<Real>, by thread, then by block_sum.
// Reads R F Real of dy, of the gate and of up, R of the weight; writes R F of dgate and of dup, R
// of dweight.
template <int kWidth, typename Act, typename Real>
__global__ void __launch_bounds__(kThreads, kBlocks)
    activation_backward_kernel(Real* __restrict__ dgate, Real* __restrict__ dup,
                               Compute<Real>* __restrict__ dweight, const Real* __restrict__ dy,
                               const Real* __restrict__ gate, const Real* __restrict__ up,
                               const Compute<Real>* __restrict__ weight, int64_t F) {
  const int64_t begin = blockIdx.x * F;
  const Compute<Real> factor = weight == nullptr ? Compute<Real>{1} : weight[blockIdx.x];
  Compute<Real> of_weight = 0;
  for (int64_t f = threadIdx.x * kWidth; f < F; f += kThreads * kWidth) {
    const auto gradient = load_chunk<kWidth>(dy + begin + f);
    auto by_gate = load_chunk<kWidth>(gate + begin + f);
    if (up != nullptr) {
      auto by_up = load_chunk<kWidth>(up + begin + f);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const Point<Compute<Real>> act = Act::at(by_gate.value[i]);
        of_weight += gradient.value[i] * act.value * by_up.value[i];
        by_gate.value[i] = gradient.value[i] * factor * by_up.value[i] * act.slope;
        by_up.value[i] = gradient.value[i] * factor * act.value;
      }
      store_chunk(dup + begin + f, by_up);
    } else {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const Point<Compute<Real>> act = Act::at(by_gate.value[i]);
        of_weight += gradient.value[i] * act.value;
        by_gate.value[i] = gradient.value[i] * factor * act.slope;
      }
    }
    store_chunk(dgate + begin + f, by_gate);
  }
  if (dweight == nullptr) return;
  of_weight = block_sum<kThreads>(of_weight);
  if (threadIdx.x == 0) dweight[blockIdx.x] = of_weight;
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

}  // namespace

void CudaOps::do_activation_forward(Queue q, Tensor y, Tensor gate, Tensor up, Tensor weight,
                                    Activation activation) {
  with_real(gate.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t F = gate.dim(1);
    const bool fits =
        fits_packets(F * static_cast<int64_t>(sizeof(Real)), y.raw(), gate.raw(), up.raw());
    with_activation(activation, [&](auto act) {
      with_width<Packet<Real>::kSize>(fits, [&](auto width) {
        launch(device_.stream(q),
               activation_forward_kernel<decltype(width)::value, decltype(act), Real>,
               {static_cast<unsigned>(gate.dim(0)), kThreads}, y.data<Real>(), gate.data<Real>(),
               data_or_null<Real>(up), data_or_null<Compute<Real>>(weight), F);
      });
    });
  });
}

void CudaOps::do_activation_backward(Queue q, Tensor dgate, Tensor dup, Tensor dweight, Tensor dy,
                                     Tensor gate, Tensor up, Tensor weight, Activation activation) {
  with_real(gate.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t F = gate.dim(1);
    const bool fits = fits_packets(F * static_cast<int64_t>(sizeof(Real)), dgate.raw(), dup.raw(),
                                   dy.raw(), gate.raw(), up.raw());
    with_activation(activation, [&](auto act) {
      with_width<Packet<Real>::kSize>(fits, [&](auto width) {
        launch(device_.stream(q),
               activation_backward_kernel<decltype(width)::value, decltype(act), Real>,
               {static_cast<unsigned>(gate.dim(0)), kThreads}, dgate.data<Real>(),
               data_or_null<Real>(dup), data_or_null<Compute<Real>>(dweight), dy.data<Real>(),
               gate.data<Real>(), data_or_null<Real>(up), data_or_null<Compute<Real>>(weight), F);
      });
    });
  });
}

}  // namespace switchyard
