// Contract: checks the tensors of one public Ops function at the door, so that kernels need not.
// Messages name the function, the tensor, what it is and what it should be.
#pragma once

#include <array>
#include <initializer_list>
#include <span>

#include "core/error.h"
#include "core/tensor.h"

namespace switchyard {

class Contract {
 public:
  explicit Contract(const char* function) : function_(function) {}

  // The dimensions of a tensor that defines sizes.
  template <size_t kRank>
  std::array<int64_t, kRank> dims(const char* name, Tensor tensor) const {
    SY_CHECK(tensor.rank() == static_cast<int>(kRank), "{}: {} is {}, expected {} dimension(s)",
             function_, name, tensor.shape_string(), kRank);
    std::array<int64_t, kRank> sizes;
    for (size_t i = 0; i < kRank; ++i) sizes[i] = tensor.dim(static_cast<int>(i));
    return sizes;
  }

  // The dtype of a tensor of reals: f32, f64 or bf16.
  DType real(const char* name, Tensor tensor) const {
    const DType dtype = tensor.dtype();
    SY_CHECK(dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kBF16,
             "{}: {} holds {}, expected f32, f64 or bf16", function_, name, name_of(dtype));
    return dtype;
  }

  // The dtype of a tensor of what sums or decides: f32 or f64.
  DType accumulator(const char* name, Tensor tensor) const {
    const DType dtype = tensor.dtype();
    SY_CHECK(dtype == DType::kF32 || dtype == DType::kF64, "{}: {} holds {}, expected f32 or f64",
             function_, name, name_of(dtype));
    return dtype;
  }

  void check(const char* name, Tensor tensor, DType dtype,
             std::initializer_list<int64_t> shape) const {
    const std::span<const int64_t> expected(shape.begin(), shape.size());
    SY_CHECK(!tensor.is_none() && tensor.dtype() == dtype &&
                 Tensor(nullptr, dtype, expected).shape_string() == tensor.shape_string(),
             "{}: {} is {} {}, expected {} ({})", function_, name, name_of(tensor.dtype()),
             tensor.shape_string(), name_of(dtype), fmt::join(expected, ", "));
  }

  // For operands in which bf16 and f32 may stand side by side: real of the same accumulator dtype.
  void check_mixed(const char* name, Tensor tensor, DType accumulator_dtype,
                   std::initializer_list<int64_t> shape) const {
    const DType own = real(name, tensor);
    check(name, tensor, accumulator_of(own) == accumulator_dtype ? own : accumulator_dtype, shape);
  }

  // For tensors that are seen as flat.
  void check_numel(const char* name, Tensor tensor, DType dtype, int64_t numel) const {
    SY_CHECK(!tensor.is_none() && tensor.dtype() == dtype && tensor.numel() == numel,
             "{}: {} is {} {}, expected {} with {} elements", function_, name,
             name_of(tensor.dtype()), tensor.shape_string(), name_of(dtype), numel);
  }

  // Two optional tensors of which one has no meaning without the other.
  void check_paired(const char* name_a, Tensor a, const char* name_b, Tensor b) const {
    SY_CHECK(a.is_none() == b.is_none(), "{}: {} is {} but {} is {}; give both or neither",
             function_, name_a, a.shape_string(), name_b, b.shape_string());
  }

  // `what` says what must hold of the two numbers.
  void check_that(bool holds, const char* what, int64_t a, int64_t b) const {
    SY_CHECK(holds, "{}: {} (got {} and {})", function_, what, a, b);
  }

 private:
  const char* function_;
};

}  // namespace switchyard
