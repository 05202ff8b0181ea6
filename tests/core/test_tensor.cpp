#include <vector>

#include "core/math.h"
#include "core/tensor.h"
#include "support/catch.h"

using namespace switchyard;

TEST_CASE("a tensor views memory by rows") {
  std::vector<float> values(12);
  Tensor x(values.data(), DType::kF32, {3, 4});
  CHECK(x.numel() == 12);
  CHECK(x.bytes() == 48);
  CHECK(x.shape_string() == "(3, 4)");
  CHECK(x.rows(1, 2).data<float>() == values.data() + 4);
  CHECK(x.rows(3, 0).empty());
  CHECK(x.flat().dim(0) == 12);
  CHECK(x.reshape({2, 6}).dim(1) == 6);
}

TEST_CASE("none, empty and scalar tensors") {
  CHECK(Tensor().is_none());
  CHECK(Tensor().numel() == 0);
  float one = 1;
  CHECK(Tensor(&one, DType::kF32, std::initializer_list<int64_t>{}).numel() == 1);
  CHECK_FALSE(Tensor(nullptr, DType::kF32, {0, 4}).is_none());
}

TEST_CASE("wrong use of a tensor is an error with the shapes in it") {
  std::vector<float> values(12);
  Tensor x(values.data(), DType::kF32, {3, 4});
  CHECK_THROWS_WITH(x.data<double>(), test::contains_text("f32"));
  CHECK_THROWS_WITH(x.rows(2, 2), test::contains_text("(3, 4)"));
  CHECK_THROWS_AS(x.reshape({5}), Error);
  CHECK_THROWS_AS(x.dim(2), Error);
}

TEST_CASE("division that must be exact") {
  CHECK(div_exact(12, 4) == 3);
  CHECK_THROWS_WITH(div_exact(12, 5), test::contains_text("12 is not divisible by 5"));
  CHECK(div_up(12, 5) == 3);
  CHECK(round_up(12, 5) == 15);
}
