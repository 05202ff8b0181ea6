#include "comm/host_memory.h"

#include <algorithm>
#include <cstring>

namespace switchyard {
namespace {

// Block by block through a buffer in the first-level cache: every element is read and written once,
// and an input is read before `out` overwrites it. Sums of T are held in Sum.
template <typename T, typename Sum = T>
void sum(Tensor out, std::span<const Tensor> inputs) {
  constexpr int64_t kBlock = 1024;
  Sum block[kBlock];
  for (int64_t begin = 0; begin < out.numel(); begin += kBlock) {
    const int64_t count = std::min(kBlock, out.numel() - begin);
    const T* const first = inputs[0].data<T>() + begin;
    for (int64_t i = 0; i < count; ++i) block[i] = static_cast<Sum>(first[i]);
    for (const Tensor& input : inputs.subspan(1)) {
      const T* const values = input.data<T>() + begin;
      for (int64_t i = 0; i < count; ++i) block[i] += static_cast<Sum>(values[i]);
    }
    T* const total = out.data<T>() + begin;
    for (int64_t i = 0; i < count; ++i) total[i] = static_cast<T>(block[i]);
  }
}

}  // namespace

void copy_host(Tensor out, Tensor input) {
  if (out.bytes() == 0 || out.raw() == input.raw()) return;
  std::memcpy(out.raw(), input.raw(), static_cast<size_t>(out.bytes()));
}

void sum_host(Tensor out, std::span<const Tensor> inputs) {
  if (inputs.size() == 1) return copy_host(out, inputs[0]);
  switch (out.dtype()) {
    case DType::kF32:
      return sum<float>(out, inputs);
    case DType::kF64:
      return sum<double>(out, inputs);
    case DType::kBF16:
      return sum<BFloat16, float>(out, inputs);
    case DType::kI32:
      return sum<int32_t>(out, inputs);
    case DType::kI64:
      return sum<int64_t>(out, inputs);
    case DType::kU8:
      SY_CHECK(false, "bytes are not numbers: they cannot be summed");
  }
}

}  // namespace switchyard
