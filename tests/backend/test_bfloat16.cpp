// The conversion between f32 and bf16, all of it: the type's own and the vectorised one of Ops.
#include <bit>

#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

constexpr uint32_t kInfinity = 0x7F80, kSign = 0x8000;

// The finite or infinite bf16 of these bits as f64; infinity as the number that would follow.
double value_of(uint32_t bits) {
  const double sign = (bits & kSign) != 0 ? -1 : 1;
  if ((bits & ~kSign) == kInfinity) return sign * 0x1p128;
  return sign * to_double(std::bit_cast<float>((bits & ~kSign) << 16));
}

// The bits of the bf16 that is nearest to x, the even one of two; found by comparing distances.
uint32_t nearest(float x) {
  const uint32_t below = std::bit_cast<uint32_t>(x) >> 16, above = below + 1;  // in magnitude
  if ((below & ~kSign) == kInfinity) return below;
  const double to_below = std::abs(to_double(x) - value_of(below));
  const double to_above = std::abs(to_double(x) - value_of(above));
  if (to_below == to_above) return below % 2 == 0 ? below : above;
  return to_below < to_above ? below : above;
}

// Every upper half of an f32 with the lower halves around zero, around the tie and at the end.
std::vector<float> all_neighbourhoods() {
  std::vector<float> values;
  for (uint32_t upper = 0; upper < 0x10000; ++upper)
    for (const uint32_t lower : {0u, 1u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu})
      values.push_back(std::bit_cast<float>(upper << 16 | lower));
  return values;
}

HostTensor<BFloat16> all_bfloat16() {
  HostTensor<BFloat16> all({0x10000});
  for (size_t bits = 0; bits < 0x10000; ++bits) all.values[bits].bits = static_cast<uint16_t>(bits);
  return all;
}

}  // namespace

TEST_CASE("every bf16 survives f32") {
  CpuBackend backend(1);
  HostTensor<BFloat16> all = all_bfloat16(), back({0x10000});
  HostTensor<float> wide({0x10000});
  backend.ops().convert(kQueue, wide, all);
  backend.ops().convert(kQueue, back, wide);
  size_t wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = static_cast<float>(all.values[bits]);
    wrong += std::bit_cast<uint32_t>(value) != bits << 16;
    wrong += std::bit_cast<uint32_t>(wide.values[bits]) != bits << 16;
    // A signalling NaN comes back as a quiet one.
    const uint32_t expected = std::isnan(value) ? bits | 0x0040 : bits;
    wrong += BFloat16(value).bits != expected;
    wrong += back.values[bits].bits != expected;
  }
  CHECK(wrong == 0);
}

TEST_CASE("f32 is rounded to the nearest bf16, ties to even; too large becomes infinity") {
  CpuBackend backend(1);
  const std::vector<float> values = all_neighbourhoods();
  const auto count = static_cast<int64_t>(values.size());
  HostTensor<float> wide = host_tensor({count}, values);
  HostTensor<BFloat16> narrow({count});
  backend.ops().convert(kQueue, narrow, wide);
  size_t wrong = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const BFloat16 scalar(values[i]);
    wrong += scalar != narrow.values[i];
    if (std::isnan(values[i]))
      wrong += !std::isnan(static_cast<float>(scalar)) ||
               std::signbit(static_cast<float>(scalar)) != std::signbit(values[i]);
    else
      wrong += scalar.bits != nearest(values[i]);
  }
  CHECK(wrong == 0);

  // What `nearest` should know.
  CHECK(nearest(1.0f) == 0x3F80);
  CHECK(nearest(1.0f + 0x1p-8f) == 0x3F80);            // a tie, to even
  CHECK(nearest(1.0f + 3 * 0x1p-8f) == 0x3F82);        // a tie, to even
  CHECK(nearest(-1.0f - 0x1.02p-8f) == 0xBF81);        // beyond the tie
  CHECK(nearest(0x1.FEp127f) == 0x7F7F);               // the largest bf16
  CHECK(nearest(0x1.FFp127f) == kInfinity);            // half a unit more
  CHECK(nearest(0x1.FEFFFEp127f) == 0x7F7F);           // a little less
  CHECK(nearest(std::bit_cast<float>(0x8000u)) == 0);  // half of the smallest: a tie
  CHECK(nearest(std::bit_cast<float>(0x80000001u)) == kSign);
}
