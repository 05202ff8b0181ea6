// Tensor: a typed, shaped *view* on contiguous row-major memory that somebody else owns (a Buffer
// or an Arena, backend/backend.h). Small, copyable, passed by value. Its memory may be on a device;
// only code that knows it is on the host may use data<T>().
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "core/dtype.h"

namespace switchyard {

class Tensor {
 public:
  static constexpr int kMaxRank = 4;

  // No tensor: "this optional argument is not given". empty() is true for tensors of no elements,
  // is_none() only for this.
  Tensor() = default;
  Tensor(void* data, DType dtype, std::span<const int64_t> shape);
  Tensor(void* data, DType dtype, std::initializer_list<int64_t> shape)
      : Tensor(data, dtype, std::span<const int64_t>(shape.begin(), shape.size())) {}

  bool is_none() const { return rank_ < 0; }
  bool empty() const { return numel() == 0; }
  DType dtype() const { return dtype_; }
  int rank() const { return rank_; }
  int64_t dim(int i) const;
  std::span<const int64_t> shape() const {
    return {shape_.data(), static_cast<size_t>(rank_ < 0 ? 0 : rank_)};
  }
  int64_t numel() const;  // 1 for rank 0, 0 for none
  int64_t bytes() const { return numel() * static_cast<int64_t>(size_in_bytes(dtype_)); }
  std::string shape_string() const;  // "(4, 256)"

  void* raw() const { return data_; }
  template <typename T>
  T* data() const {
    SY_CHECK(DTypeOf<T>::value == dtype_, "tensor holds {}, not {}", name_of(dtype_),
             name_of(DTypeOf<T>::value));
    return static_cast<T*>(data_);
  }
  template <typename T>
  std::span<T> span() const {
    return {data<T>(), static_cast<size_t>(numel())};
  }

  // Views on the same memory.
  Tensor rows(int64_t begin, int64_t count) const;             // slice of dim 0
  Tensor reshape(std::initializer_list<int64_t> shape) const;  // same number of elements
  Tensor flat() const { return reshape({numel()}); }

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  int rank_ = -1;
  std::array<int64_t, kMaxRank> shape_{};
};

}  // namespace switchyard
