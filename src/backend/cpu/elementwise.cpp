// Fills, copies, sums and random initial values.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/storage.h"
#include "backend/dispatch.h"
#include "core/random.h"

namespace switchyard {

void CpuOps::do_fill(Queue, Tensor x, double value) {
  const auto fill = [&](auto typed) {
    using Element = decltype(typed);
    Element* data = x.data<Element>();
    const auto element = static_cast<Element>(static_cast<Compute<Element>>(value));
    parallel_for(num_threads_, x.numel(), kElementsPerTask,
                 [&](int64_t begin, int64_t end) { std::fill(data + begin, data + end, element); });
  };
  switch (x.dtype()) {
    case DType::kF32:
      return fill(float{});
    case DType::kF64:
      return fill(double{});
    case DType::kBF16:
      return fill(BFloat16{});
    case DType::kI32:
      return fill(int32_t{});
    case DType::kI64:
      return fill(int64_t{});
    case DType::kU8:
      return fill(uint8_t{});
  }
}

void CpuOps::do_copy(Queue, Tensor y, Tensor x) {
  if (x.raw() == y.raw()) return;
  parallel_for(num_threads_, x.bytes(), 8 * kElementsPerTask, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<std::byte*>(y.raw()) + begin,
                static_cast<const std::byte*>(x.raw()) + begin, static_cast<size_t>(end - begin));
  });
}

void CpuOps::do_convert(Queue, Tensor y, Tensor x) {
  with_real(y.dtype(), [&](auto to) {
    with_real(x.dtype(), [&](auto from) {
      parallel_for(num_threads_, x.numel(), kElementsPerTask, [&](int64_t begin, int64_t end) {
        convert_span(y.data<decltype(to)>() + begin, x.data<decltype(from)>() + begin, end - begin);
      });
    });
  });
}

void CpuOps::do_add(Queue, Tensor y, Tensor a, Tensor b) {
  with_real(y.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    parallel_for(num_threads_, y.numel(), kElementsPerTask, [&](int64_t begin, int64_t end) {
      Real* sum = y.data<Real>();  // may be a or b: no restrict, but each element is on its own
      const Real *first = a.data<Real>(), *second = b.data<Real>();
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) store(sum[i], load(first[i]) + load(second[i]));
    });
  });
}

void CpuOps::do_init_normal(Queue, Tensor x, double std, uint64_t key, int64_t first_index,
                            int64_t row_stride) {
  with_real(x.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t M = x.dim(1);
    parallel_for(num_threads_, x.numel(), 1 << 10, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto index = static_cast<uint64_t>(first_index + i / M * row_stride + i % M);
        store(x.data<Real>()[i], static_cast<Compute<Real>>(std * random_normal(key, index)));
      }
    });
  });
}

}  // namespace switchyard
