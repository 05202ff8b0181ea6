// Rotary position embedding, in place, and its inverse.
#include <cmath>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/storage.h"
#include "backend/dispatch.h"

namespace switchyard {
namespace {

// cos and sin of position * theta^(-2i/C) for every token and i < C/2.
template <typename Real>
void rotate(int threads, Tensor x, Tensor position, int64_t C, double theta, double direction) {
  const int64_t half = C / 2, width = x.dim(1);
  std::vector<double> frequency;
  for (int64_t i = 0; i < half; ++i)
    frequency.push_back(std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(C)));
  parallel_for(threads, x.dim(0), rows_per_task(8 * width), [&](int64_t begin, int64_t end) {
    using Angle = Compute<Real>;
    std::vector<Angle> cosine(static_cast<size_t>(half)), sine(static_cast<size_t>(half));
    for (int64_t t = begin; t < end; ++t) {
      for (size_t i = 0; i < frequency.size(); ++i) {
        const double angle = position.data<int32_t>()[t] * frequency[i];
        cosine[i] = static_cast<Angle>(std::cos(angle));
        sine[i] = static_cast<Angle>(direction * std::sin(angle));
      }
      for (Real* head = x.data<Real>() + t * width; head < x.data<Real>() + (t + 1) * width;
           head += C) {
        Real* __restrict a = head;
        Real* __restrict b = head + half;
#pragma omp simd
        for (int64_t i = 0; i < half; ++i) {
          const Angle first = load(a[i]), second = load(b[i]);
          store(a[i],
                first * cosine[static_cast<size_t>(i)] - second * sine[static_cast<size_t>(i)]);
          store(b[i],
                second * cosine[static_cast<size_t>(i)] + first * sine[static_cast<size_t>(i)]);
        }
      }
    }
  });
}

}  // namespace

void CpuOps::do_rope_forward(Queue, Tensor x, Tensor position, int64_t head_dim, double theta) {
  with_real(x.dtype(), [&](auto zero) {
    rotate<decltype(zero)>(num_threads_, x, position, head_dim, theta, 1.0);
  });
}

void CpuOps::do_rope_backward(Queue, Tensor dx, Tensor position, int64_t head_dim, double theta) {
  with_real(dx.dtype(), [&](auto zero) {
    rotate<decltype(zero)>(num_threads_, dx, position, head_dim, theta, -1.0);
  });
}

}  // namespace switchyard
