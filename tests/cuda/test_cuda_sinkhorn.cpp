// Sinkhorn on CUDA against the CPU: costs, rounds over pieces of the tokens, the choice.
#include "cuda/cuda_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

struct Sizes {
  int64_t T, E, A, S, first_row, rows_per_scope;
};

// Each step of a round by itself, from the same numbers on both backends.
template <typename Real>
Outputs sinkhorn(Ops& ops, Placement& place, const Sizes& s) {
  auto logits = shared_random<Real>("logits", {s.T, s.E}, 2.0);
  HostTensor<double> cost({s.T, s.E}, kUnset<double>), sum({s.S, s.E}, kUnset<double>), next = sum;
  auto factor = shared_random<double>("factor", {s.S, s.E});
  for (double& f : factor.values) f = std::abs(f) + 0.125;
  HostTensor<int32_t> expert({s.T, s.A}, -7);
  Tensor c = place(cost), f = place(factor), sums = place(sum), n = place(next), e = place(expert);
  ops.sinkhorn_costs(kQueue, c, place(logits));
  ops.sinkhorn_sums(kQueue, sums, f, c, s.first_row, s.rows_per_scope);
  ops.sinkhorn_factors(kQueue, n, sums);
  ops.sinkhorn_choice(kQueue, e, f, c, s.first_row, s.rows_per_scope);
  place.fetch(cost, c);
  place.fetch(sum, sums);
  place.fetch(next, n);
  place.fetch(expert, e);
  return outputs(cost, sum, next, expert);
}

}  // namespace

TEST_CASE("Sinkhorn on CUDA against the CPU") {
  for (const Sizes& s : {Sizes{60, 5, 2, 3, 0, 20},
                         {37, 33, 5, 2, 3, 20},
                         {1, 1, 1, 1, 0, 1},
                         {0, 8, 2, 2, 5, 7},
                         {11, 512, 16, 4, 10, 10},
                         {2200, 2, 1, 1, 0, 2500}}) {
    CAPTURE(s.T, s.E, s.A, s.S);
    check_on_cuda(3e-7, [&](Ops& ops, Placement& place, auto zero) {
      return sinkhorn<Compute<decltype(zero)>>(ops, place, s);
    });
  }
}

TEST_CASE("Sinkhorn on CUDA: among equal experts the lower index wins") {
  check_equals_cpu([](Ops& ops, Placement& place, auto) {
    auto cost = host_tensor<double>({3, 4}, {1, 1, 1, 1, 0, 0, 2, 2, 1, 2, 1, 2});
    auto factor = host_tensor<double>({1, 4}, {2, 1, 2, 1});
    HostTensor<int32_t> expert({3, 3}, -7);
    Tensor e = place(expert);
    ops.sinkhorn_choice(kQueue, e, place(factor), place(cost), 0, 3);
    place.fetch(expert, e);
    return outputs(expert);
  });
}

TEST_CASE("Sinkhorn on CUDA with logits far apart stays finite") {
  CudaDevice device(0);
  CudaOps ops(device);
  Placement place(device.stream({}));
  auto logits =
      host_tensor<float>({4, 3}, {1000, 0, -1000, 1000, 0, -1000, -5000, 3, 2, 900, 901, 0});
  HostTensor<double> cost({4, 3}), factor({1, 3}, 1.0), sum({1, 3});
  Tensor c = place(cost), f = place(factor), s = place(sum);
  ops.sinkhorn_costs(kQueue, c, place(logits));
  for (int round = 0; round < 8; ++round) {
    ops.sinkhorn_sums(kQueue, s, f, c, 0, 4);
    ops.sinkhorn_factors(kQueue, f, s);
  }
  place.fetch(factor, f);
  for (const double value : factor.values) CHECK((std::isfinite(value) && value > 0));
}
