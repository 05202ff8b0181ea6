// Rotary position embedding, in place, and its inverse.
#include <cmath>

#include "backend/cuda/chunk.cuh"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/trigonometry.cuh"

namespace switchyard {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
constexpr int kMaxPairs = 128;  // pairs of channels that one launch rotates in every head

// theta^(-2i/C) of those pairs: computed on the host, constants of the run.
struct Frequencies {
  double of_pair[kMaxPairs];
};

// One block for each token. Cosines and sines of its position, in f64 as far as the last rounding,
// are computed once and serve all heads; then a thread takes chunks of pairs (channel i, i + C/2),
// in turns. Reads and writes T * width Real (in whole, over the launches), and reads T positions.
template <int kWidth, typename Real>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(Real* __restrict__ x, const int32_t* __restrict__ position, int64_t width,
                int head_dim, double direction, int first_pair, int num_pairs,
                const __grid_constant__ Frequencies frequencies) {
  using Angle = Compute<Real>;
  SHARED_ARRAY(Angle, cosine, kMaxPairs);
  SHARED_ARRAY(Angle, sine, kMaxPairs);
  for (int i = static_cast<int>(threadIdx.x); i < num_pairs; i += kThreads) {
    const SineCosine of = sine_cosine(position[blockIdx.x] * frequencies.of_pair[i]);
    cosine[i] = static_cast<Angle>(of.cosine);
    sine[i] = static_cast<Angle>(direction * of.sine);
  }
  __syncthreads();
  const int chunks_per_head = num_pairs / kWidth;
  const int num_chunks = static_cast<int>(width / head_dim) * chunks_per_head;
  for (int c = static_cast<int>(threadIdx.x); c < num_chunks; c += kThreads) {
    const int head = c / chunks_per_head, i = c % chunks_per_head * kWidth;
    Real* a = x + blockIdx.x * width + int64_t{head} * head_dim + first_pair + i;
    Real* b = a + head_dim / 2;
    auto first = load_chunk<kWidth>(a), second = load_chunk<kWidth>(b);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const Angle u = first.value[j], v = second.value[j];
      first.value[j] = u * cosine[i + j] - v * sine[i + j];
      second.value[j] = v * cosine[i + j] + u * sine[i + j];
    }
    store_chunk(a, first);
    store_chunk(b, second);
  }
}

// direction: 1 forward, -1 back.
template <typename Real>
void rotate(cudaStream_t stream, Tensor x, Tensor position, int64_t C, double theta,
            double direction) {
  const auto half = static_cast<int>(C / 2);
  const bool fits = fits_packets(half * static_cast<int64_t>(sizeof(Real)), x.raw());
  for (int first = 0; first < half; first += kMaxPairs) {
    const int num_pairs = std::min(kMaxPairs, half - first);
    Frequencies frequencies{};
    for (int i = 0; i < num_pairs; ++i)
      frequencies.of_pair[i] = std::pow(theta, -2.0 * (first + i) / static_cast<double>(C));
    with_width<Packet<Real>::kSize>(fits, [&](auto width) {
      launch(stream, rope_kernel<decltype(width)::value, Real>,
             {static_cast<unsigned>(x.dim(0)), kThreads}, x.data<Real>(), position.data<int32_t>(),
             x.dim(1), static_cast<int>(C), direction, first, num_pairs, frequencies);
    });
  }
}

}  // namespace

void CudaOps::do_rope_forward(Queue q, Tensor x, Tensor position, int64_t head_dim, double theta) {
  with_real(x.dtype(), [&](auto zero) {
    rotate<decltype(zero)>(device_.stream(q), x, position, head_dim, theta, 1.0);
  });
}

void CudaOps::do_rope_backward(Queue q, Tensor dx, Tensor position, int64_t head_dim,
                               double theta) {
  with_real(dx.dtype(), [&](auto zero) {
    rotate<decltype(zero)>(device_.stream(q), dx, position, head_dim, theta, -1.0);
  });
}

}  // namespace switchyard
