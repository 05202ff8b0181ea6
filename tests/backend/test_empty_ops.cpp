// A micro-batch without tokens, an expert rank without rows: every Op accepts zero rows, leaves
// what it adds to, and overwrites what does not depend on rows.
#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

template <typename Real>
void run_with_zero_rows(Ops& ops) {
  using Acc = Compute<Real>;
  const Queue q = kQueue;
  HostTensor<Real> rows({0, 8}), widths({8}, Real{3}), table({5, 8}, Real{3});
  HostTensor<Acc> logits({0, 8}), per_row({0}), choices({0, 2}), dwidths({8}, Acc{3});
  HostTensor<Acc> dtable({5, 8}, Acc{3}), dexperts({3, 8, 8}, Acc{3}), dsquare({8, 8}, Acc{3});
  HostTensor<Real> experts({3, 8, 8}, Real{3}), square({8, 8}, Real{3});
  HostTensor<int32_t> ids({0}), choice({0, 2}), begin({4}, 0);
  HostTensor<double> sum({1}, 0.5), scalars({kNumStepScalars}, 0.0);

  ops.matmul_nt(q, rows, rows, square);
  ops.matmul_nn(q, rows, rows, square);
  ops.matmul_nn_add(q, rows, rows, square);
  ops.matmul_tn_add(q, dsquare, rows, rows);
  CHECK(dsquare.values == std::vector<Acc>(64, Acc{3}));
  ops.grouped_matmul_nt(q, rows, rows, experts, begin);
  ops.grouped_matmul_nn(q, rows, rows, experts, begin);
  ops.grouped_matmul_nn_add(q, rows, rows, experts, begin);
  ops.grouped_matmul_tn_add(q, dexperts, rows, rows, begin);
  CHECK(dexperts.values == std::vector<Acc>(192, Acc{3}));

  ops.embedding_forward(q, rows, table, ids, 0, 5);
  ops.embedding_backward(q, dtable, rows, ids, 0, 5);
  CHECK(dtable.values == std::vector<Acc>(40, Acc{3}));
  ops.rmsnorm_forward(q, rows, rows, per_row, rows, rows, widths, 1e-5);
  ops.rmsnorm_backward(q, rows, rows, rows, rows, per_row, widths);
  ops.rmsnorm_weight_backward(q, dwidths, rows, rows, per_row);
  CHECK(dwidths.values == std::vector<Acc>(8, Acc{3}));

  HostTensor<Acc> per_head({0, 2});
  ops.rope_forward(q, rows, ids, 4, 1e4);
  ops.rope_backward(q, rows, ids, 4, 1e4);
  ops.attention_forward(q, rows, per_head, rows, rows, rows, ids, 4, 16);
  ops.attention_backward(q, rows, rows, rows, rows, rows, per_head, rows, rows, rows, ids, 4, 16);
  ops.activation_forward(q, rows, rows, rows, per_row, Activation::kSwiGLU);
  ops.activation_backward(q, rows, rows, per_row, rows, rows, rows, per_row, Activation::kSwiGLU);

  HostTensor<double> statistics({2, 0, 3});
  ops.softmax_statistics(q, statistics.view().rows(0, 1).reshape({0, 3}), logits, ids, 0, 16);
  ops.cross_entropy_loss(q, sum, statistics, ids, 0, 0);
  ops.cross_entropy_gradient(q, logits, statistics, ids, 0, scalars);
  ops.squared_norm_add(q, sum, per_row);
  const RouterRule rule = {.score = RouterScore::kSigmoid, .num_groups = 2, .top_groups = 1};
  ops.router_forward(q, logits, per_row, choice, choices, choices, sum, sum, logits, Tensor(), rule,
                     false);
  CHECK(sum.values[0] == 0.5);

  HostTensor<double> count({2, 8}, kUnset<double>), prob_sum({2, 8}, kUnset<double>);
  ops.router_statistics(q, count, prob_sum, choice, logits, RouterScore::kSigmoid, 0, 3);
  CHECK(count.values == std::vector<double>(16, 0.0));
  CHECK(prob_sum.values == std::vector<double>(16, 0.0));
  ops.router_backward(q, logits, choices, choice, choices, logits, per_row, logits, count, rule, 0,
                      3, 1, 1);
  HostTensor<double> cost({0, 8}), factor({2, 8}, 1.0), sums({2, 8}, kUnset<double>);
  ops.sinkhorn_costs(q, cost, logits);
  ops.sinkhorn_sums(q, sums, factor, cost, 0, 3);
  CHECK(sums.values == std::vector<double>(16, 0.0));
  ops.sinkhorn_choice(q, choice, factor, cost, 0, 3);
  ops.balanced_choice(q, choice, 0, 8);
  ops.jitter(q, rows, rows, 0.1, 1, 2, 3);
  ops.drop_tokens(q, choice, choice, choices, 8, 2, 4, DropOrder::kProbs);
  HostTensor<double> load({9}, 2.0);
  ops.expert_load(q, load, choice);
  CHECK(load.values == std::vector<double>(9, 2.0));

  constexpr DType kReal = DTypeOf<Real>::value;
  HostTensor<uint8_t> sent({0, dispatch_row_bytes(8, 2, kReal)});
  HostTensor<uint8_t> returned({0, gradient_row_bytes(8, 2, kReal)});
  HostTensor<int32_t> send_row({0, 4}), counts({2, 4}, -7), bounds({4}, -7);
  ops.plan_send(q, send_row, ids, counts, choice, 2);
  CHECK(counts.values == std::vector<int32_t>(8, 0));
  ops.pack_rows(q, sent, rows, choices, choice, ids, send_row, 2);
  ops.plan_receive(q, bounds, ids, per_row, choice, sent, 8, kReal);
  CHECK(bounds.values == std::vector<int32_t>(4, 0));
  ops.unpack_rows(q, rows, sent, ids);
  ops.combine_rows(q, rows, rows, choice);
  ops.gather_rows(q, rows, rows, ids);
  ops.gather_slots(q, choices, per_row, choice);
  ops.pack_row_gradients(q, returned, rows, choices);
  ops.unpack_row_gradients(q, rows, choices, returned, send_row, choice, 2);

  ops.adamw(q, per_row, Tensor(), per_row, per_row, per_row, scalars, 0.9, 0.95, 1e-8, 0);
  ops.fill(q, rows, 1);
  ops.copy(q, rows, rows);
  ops.convert(q, rows, rows);
  ops.add(q, rows, rows, rows);
  ops.init_normal(q, rows, 1, 2, 3, 8);
  HostTensor<int64_t> digest({1}, 7);
  ops.digest_add(q, digest, rows, 3, 8);
  CHECK(digest.values[0] == 7);
}

}  // namespace

TEST_CASE("every operation accepts zero rows") {
  for (const int threads : {1, 4}) {
    CpuBackend backend(threads);
    run_with_zero_rows<float>(backend.ops());
    run_with_zero_rows<double>(backend.ops());
    run_with_zero_rows<BFloat16>(backend.ops());
  }
}

TEST_CASE("rows without any kept choice come back as zeros") {
  CpuBackend backend(1);
  HostTensor<int32_t> nowhere({3, 2}, -1), begin({3}, -7), row_of_choice({0, 2}), empty({0});
  HostTensor<float> no_rows({0, 4}), out({3, 4}, kUnset<float>), dweight({3, 2}, kUnset<float>);
  HostTensor<uint8_t> returned({0, gradient_row_bytes(4, 2, DType::kF32)});
  backend.ops().combine_rows(kQueue, out, no_rows, nowhere);
  CHECK(out.values == std::vector<float>(12, 0.0f));
  std::fill(out.values.begin(), out.values.end(), kUnset<float>);
  backend.ops().unpack_row_gradients(kQueue, out, dweight, returned, nowhere, nowhere, 2);
  CHECK(out.values == std::vector<float>(12, 0.0f));
  CHECK(dweight.values == std::vector<float>(6, 0.0f));
}
