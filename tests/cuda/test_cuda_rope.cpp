// The rotary embedding on CUDA.
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t tokens, heads, head_dim;
  double theta = 10000;
};

// Positions as in packed documents, and some far out.
HostTensor<int32_t> make_positions(int64_t T) {
  HostTensor<int32_t> position({T});
  for (int64_t t = 0; t < T; ++t)
    position.values[static_cast<size_t>(t)] =
        static_cast<int32_t>(t % 5 == 4 ? 1'000'003 * t : t % 7);
  return position;
}

}  // namespace

TEST_CASE("rotations forward and back") {
  for (const Sizes& s :
       {Sizes{0, 2, 8}, Sizes{1, 1, 2}, Sizes{5, 3, 6}, Sizes{9, 4, 16}, Sizes{33, 2, 64},
        Sizes{12, 8, 128, 1e6}, Sizes{3, 1, 264}, Sizes{3, 2, 512, 5e5}}) {
    INFO(s.tokens << " tokens, " << s.heads << " heads of " << s.head_dim);
    check_on_cuda(
        5e-7,
        [&](Ops& ops, Placement& place, auto zero) {
          using Real = decltype(zero);
          auto x = shared_random<Real>("x", {s.tokens, s.heads * s.head_dim}), dx = x;
          auto position = make_positions(s.tokens);
          Tensor x_THC = place(x), dx_THC = place(dx), position_T = place(position);
          ops.rope_forward(kQueue, x_THC, position_T, s.head_dim, s.theta);
          ops.rope_backward(kQueue, dx_THC, position_T, s.head_dim, s.theta);
          place.fetch(x, x_THC);
          place.fetch(dx, dx_THC);
          return outputs(x, dx);
        },
        1e-15);
  }
}
