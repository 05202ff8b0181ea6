// Sine and cosine in f64. Those of CUDA reduce arguments of any size, with a table in local memory;
// these take angles below 2^31 alone, and stay in registers.
#pragma once

#include "backend/cuda/device.cuh"

namespace switchyard::cuda {

struct SineCosine {
  double sine, cosine;
};

// Within 2^-52 for |angle| < 2^31: the angle minus the nearest multiple of pi/2, which is known to
// 106 bits (Cody and Waite), then the Taylor polynomials, cut where the terms are below 2^-58.
__device__ __forceinline__ SineCosine sine_cosine(double angle) {
  const double quarter = rint(angle * 0.63661977236758138);  // 2/pi
  double r = fma(-quarter, 1.5707963267948966, angle);
  r = fma(-quarter, 6.123233995736766e-17, r);
  const double s = r * r;
  double sine = 1.0 / 355687428096000;        // 1/17!
  sine = fma(sine, s, -1.0 / 1307674368000);  // 1/15!
  sine = fma(sine, s, 1.0 / 6227020800);      // 1/13!
  sine = fma(sine, s, -1.0 / 39916800);       // 1/11!
  sine = fma(sine, s, 1.0 / 362880);          // 1/9!
  sine = fma(sine, s, -1.0 / 5040);           // 1/7!
  sine = fma(sine, s, 1.0 / 120);             // 1/5!
  sine = fma(sine, s, -1.0 / 6);              // 1/3!
  sine = fma(sine * s, r, r);
  double cosine = 1.0 / 20922789888000;         // 1/16!
  cosine = fma(cosine, s, -1.0 / 87178291200);  // 1/14!
  cosine = fma(cosine, s, 1.0 / 479001600);     // 1/12!
  cosine = fma(cosine, s, -1.0 / 3628800);      // 1/10!
  cosine = fma(cosine, s, 1.0 / 40320);         // 1/8!
  cosine = fma(cosine, s, -1.0 / 720);          // 1/6!
  cosine = fma(cosine, s, 1.0 / 24);            // 1/4!
  cosine = fma(cosine, s, -0.5);
  cosine = fma(cosine, s, 1.0);
  const int64_t turn = static_cast<int64_t>(quarter) & 3;
  const double x = turn % 2 == 0 ? cosine : sine, y = turn % 2 == 0 ? sine : cosine;
  return {turn >= 2 ? -y : y, turn == 1 || turn == 2 ? -x : x};
}

}  // namespace switchyard::cuda
