// The door of Ops: what does not fit is refused with the name of the function, of the tensor, and
// with both shapes.
#include "backend/op_checks.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// The message of the Error that `call` throws; empty if it throws none.
template <typename Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::kInternal);
    return error.what();
  }
  return "";
}

class Door {
 public:
  Ops& ops() { return backend_.ops(); }

  HostTensor<float> f32(std::initializer_list<int64_t> shape) { return HostTensor<float>(shape); }
  HostTensor<double> f64(std::initializer_list<int64_t> shape) { return HostTensor<double>(shape); }
  HostTensor<BFloat16> bf16(std::initializer_list<int64_t> shape) {
    return HostTensor<BFloat16>(shape);
  }
  HostTensor<int32_t> i32(std::initializer_list<int64_t> shape) {
    return HostTensor<int32_t>(shape);
  }

 private:
  CpuBackend backend_{1};
};

}  // namespace

TEST_CASE("a wrong shape is refused") {
  Door d;
  CHECK_THAT(message_of([&] {
               d.ops().matmul_nt(kQueue, d.f32({2, 4}), d.f32({2, 3}), d.f32({4, 5}));
             }),
             contains_text("matmul_nt: x is f32 (2, 3), expected f32 (2, 5)"));
  CHECK_THAT(message_of([&] {
               d.ops().grouped_matmul_tn_add(kQueue, d.f32({3, 4, 5}), d.f32({2, 4}), d.f32({2, 5}),
                                             d.i32({3}));
             }),
             contains_text("grouped_matmul_tn_add: begin is i32 (3), expected i32 (4)"));
  CHECK_THAT(message_of([&] {
               d.ops().rmsnorm_forward(kQueue, d.f32({2, 4}), Tensor(), d.f32({3}), d.f32({2, 4}),
                                       Tensor(), d.f32({4}), 1e-5);
             }),
             contains_text("rmsnorm_forward: inv_rms is f32 (3), expected f32 (2)"));
  CHECK_THAT(message_of([&] {
               d.ops().combine_rows(kQueue, d.f32({2, 4}), d.f32({5, 3}), d.i32({2, 2}));
             }),
             contains_text("combine_rows: out is f32 (2, 4), expected f32 (2, 3)"));
  CHECK_THAT(message_of([&] {
               d.ops().adamw(kQueue, d.f32({4}), Tensor(), d.f32({4}), d.f32({3}), d.f32({4}),
                             d.f64({kNumStepScalars}), 0.9, 0.95, 1e-8, 0);
             }),
             contains_text("adamw: v is f32 (3), expected f32 with 4 elements"));
}

TEST_CASE("a wrong number of dimensions is refused, and so is a missing tensor") {
  Door d;
  CHECK_THAT(message_of([&] {
               d.ops().matmul_nn(kQueue, d.f32({2, 5}), d.f32({2, 4}), d.f32({20}));
             }),
             contains_text("matmul_nn: w is (20), expected 2 dimension(s)"));
  CHECK_THAT(message_of([&] {
               d.ops().gather_rows(kQueue, d.f32({2, 5}), Tensor(), d.i32({2}));
             }),
             contains_text("gather_rows: in is (none), expected 2 dimension(s)"));
  CHECK_THAT(message_of([&] { d.ops().fill(kQueue, Tensor(), 1); }), contains_text("fill: x is"));
}

TEST_CASE("a wrong dtype is refused") {
  Door d;
  CHECK_THAT(message_of([&] {
               d.ops().matmul_nt(kQueue, d.f64({2, 4}), d.f32({2, 5}), d.f32({4, 5}));
             }),
             contains_text("matmul_nt: y is f64 (2, 4), expected f32 (2, 4)"));
  CHECK_THAT(message_of([&] {
               d.ops().embedding_forward(kQueue, d.f32({2, 4}), d.f32({7, 4}), d.f32({2}), 0, 7);
             }),
             contains_text("embedding_forward: ids is f32 (2), expected i32 (2)"));
  CHECK_THAT(message_of([&] { d.ops().squared_norm_add(kQueue, d.f64({1}), d.i32({5})); }),
             contains_text("squared_norm_add: x holds i32, expected f32, f64 or bf16"));
  CHECK_THAT(message_of([&] {
               d.ops().cross_entropy_loss(kQueue, d.f32({1}), d.f64({1, 2, 3}), d.i32({2}), 0, 2);
             }),
             contains_text("cross_entropy_loss: loss_sum is f32 (1), expected f64 (1)"));
  CHECK_THAT(message_of([&] { d.ops().copy(kQueue, d.f32({4}), d.i32({4})); }),
             contains_text("copy: y is f32 (4), expected i32 with 4 elements"));
}

TEST_CASE("bf16 is refused where sums and decisions are f32") {
  Door d;
  CHECK_THAT(message_of([&] {
               d.ops().rmsnorm_weight_backward(kQueue, d.bf16({4}), d.bf16({2, 4}), d.bf16({2, 4}),
                                               d.f32({2}));
             }),
             contains_text("rmsnorm_weight_backward: dweight is bf16 (4), expected f32 (4)"));
  CHECK_THAT(message_of([&] {
               d.ops().embedding_backward(kQueue, d.bf16({7, 4}), d.bf16({2, 4}), d.i32({2}), 0, 7);
             }),
             contains_text("embedding_backward: dtable is bf16 (7, 4), expected f32 (7, 4)"));
  CHECK_THAT(message_of([&] {
               d.ops().activation_forward(kQueue, d.bf16({2, 4}), d.bf16({2, 4}), d.bf16({2, 4}),
                                          d.bf16({2}), Activation::kSwiGLU);
             }),
             contains_text("activation_forward: weight is bf16 (2), expected f32 (2)"));
  CHECK_THAT(message_of([&] {
               d.ops().softmax_statistics(kQueue, d.f64({2, 3}), d.bf16({2, 4}), d.i32({2}), 0, 4);
             }),
             contains_text("softmax_statistics: logits holds bf16, expected f32 or f64"));
  CHECK_THAT(message_of([&] {
               d.ops().router_forward(kQueue, d.bf16({2, 4}), d.bf16({2}), d.i32({2, 1}),
                                      d.bf16({2, 1}), d.bf16({2, 1}), d.f64({1}), d.f64({1}),
                                      d.bf16({2, 4}), Tensor(), RouterRule{}, false);
             }),
             contains_text("router_forward: logits holds bf16, expected f32 or f64"));
  CHECK_THAT(message_of([&] {
               d.ops().matmul_nt(kQueue, d.f64({2, 4}), d.bf16({2, 5}), d.bf16({4, 5}));
             }),
             contains_text("matmul_nt: y is f64 (2, 4), expected f32 (2, 4)"));
}

TEST_CASE("sizes that do not belong together are refused") {
  Door d;
  CHECK_THAT(message_of([&] {
               d.ops().rope_forward(kQueue, d.f32({2, 12}), d.i32({2}), 5, 1e4);
             }),
             contains_text("rope_forward: the width of x must be heads of an even head_dim "
                           "(got 12 and 5)"));
  const auto attention = [&](int64_t heads, int64_t kv_heads, int64_t length) {
    return message_of([&] {
      d.ops().attention_forward(kQueue, d.f32({6, heads * 4}), d.f32({6, heads}),
                                d.f32({6, heads * 4}), d.f32({6, kv_heads * 4}),
                                d.f32({6, kv_heads * 4}), d.i32({6}), 4, length);
    });
  };
  CHECK_THAT(attention(3, 2, 6), contains_text("attention_forward: query heads must be a multiple "
                                               "of key heads (widths) (got 12 and 8)"));
  CHECK_THAT(attention(4, 2, 4), contains_text("attention_forward: rows must be whole sequences of "
                                               "sequence_length (got 6 and 4)"));
  CHECK_THAT(message_of([&] {
               d.ops().balanced_choice(kQueue, d.i32({2, 4}), 0, 3);
             }),
             contains_text("balanced_choice: a token cannot choose more experts than there are "
                           "(got 4 and 3)"));
}

TEST_CASE("operands that belong together are given together") {
  Door d;
  CHECK_THAT(message_of([&] {
               d.ops().rmsnorm_forward(kQueue, d.f32({2, 4}), Tensor(), d.f32({2}), d.f32({2, 4}),
                                       d.f32({2, 4}), d.f32({4}), 1e-5);
             }),
             contains_text("rmsnorm_forward: sum is (none) but delta is (2, 4)"));
  CHECK_THAT(message_of([&] {
               d.ops().activation_forward(kQueue, d.f32({2, 4}), d.f32({2, 4}), Tensor(), Tensor(),
                                          Activation::kSwiGLU);
             }),
             contains_text("SwiGLU has an `up` operand"));
  CHECK_THAT(message_of([&] {
               d.ops().activation_backward(kQueue, d.f32({2, 4}), Tensor(), Tensor(), d.f32({2, 4}),
                                           d.f32({2, 4}), Tensor(), d.f32({2}), Activation::kReLU);
             }),
             contains_text("activation_backward: dweight is (none) but weight is (2)"));
}
