#include "backend/cpu/fma_peak.h"

#include <omp.h>

#include <algorithm>
#include <chrono>

namespace switchyard {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Twelve independent chains hide the latency of two FMA units (4 to 5 cycles each).
constexpr int kChains = 12;
constexpr int kIterations = 1 << 16;

template <typename T>
T chains_of_fma() {
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  Vector chain[kChains];
  for (int i = 0; i < kChains; ++i) chain[i] = Vector{} + static_cast<T>(i);
  const Vector factor = Vector{} + static_cast<T>(0.999), term = Vector{} + static_cast<T>(0.001);
  for (int n = 0; n < kIterations; ++n)
    for (int i = 0; i < kChains; ++i) chain[i] = chain[i] * factor + term;
  Vector sum = chain[0];
  for (int i = 1; i < kChains; ++i) sum += chain[i];
  return sum[0];
}

template <typename T>
double measure(int num_threads) {
  double best = 0, sink = 0;
  for (int run = 0; run < 6; ++run) {
    const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(num_threads) reduction(+ : sink)
    sink += static_cast<double>(chains_of_fma<T>());
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double flops = 2.0 * kIterations * kChains * (kVectorBytes / sizeof(T)) * num_threads;
    if (sink != 0) best = std::max(best, flops / seconds);  // uses sink, so that it is computed
  }
  return best;
}

}  // namespace

double measure_fma_peak(DType real, int num_threads) {
  return real == DType::kF64 ? measure<double>(num_threads) : measure<float>(num_threads);
}

}  // namespace switchyard
