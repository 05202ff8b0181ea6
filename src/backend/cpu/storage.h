// Storage and arithmetic: bf16 is loaded as f32, computed with, and rounded once when it is stored;
// f32 and f64 are what they are. A kernel is written once, on load() and store().
#pragma once

#include <cstdint>

#include "backend/dispatch.h"

namespace switchyard {

inline float load(const float& x) { return x; }
inline double load(const double& x) { return x; }
inline float load(const BFloat16& x) { return static_cast<float>(x); }

inline void store(float& y, float x) { y = x; }
inline void store(double& y, double x) { y = x; }
// Writes the bits alone: with an object of BFloat16 in between, g++ does not vectorise the loop.
inline void store(BFloat16& y, float x) { y.bits = BFloat16::rounded(x); }

// y = x, element by element. f64 goes to bf16 through f32.
template <typename To, typename From>
void convert_span(To* __restrict y, const From* __restrict x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(y[i], static_cast<Compute<To>>(load(x[i])));
}

}  // namespace switchyard
