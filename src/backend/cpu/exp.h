// The exponential in the inner loops of softmax and SwiGLU. For f32 it is written out, so that the
// compiler vectorises loops around it; f64, the definition, uses the library.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace switchyard {

// e^x to about 2 units in the last place: 2^n * e^r with |r| <= ln(2)/2 and a Taylor polynomial of
// degree 7 for e^r. Below -87 it gives 0 (as does -inf), above 88 about 1.6e38; NaN stays NaN.
inline float fast_exp(float x) {
  const float clamped = x > 88.0f ? 88.0f : x;
  const float n = std::nearbyint(clamped * 1.44269504f);
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;  // ln(2) in two parts
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const float safe_n = x > -87.0f ? n : 0.0f;  // the conversion below must not overflow
  const auto scale = std::bit_cast<float>((static_cast<int32_t>(safe_n) + 127) << 23);
  const float result = p * scale;
  return x <= -87.0f ? 0.0f : result;
}

inline double fast_exp(double x) { return std::exp(x); }

}  // namespace switchyard
