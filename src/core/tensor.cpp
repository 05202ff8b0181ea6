#include "core/tensor.h"

#include <algorithm>

namespace switchyard {

Tensor::Tensor(void* data, DType dtype, std::span<const int64_t> shape)
    : data_(data), dtype_(dtype), rank_(static_cast<int>(shape.size())) {
  SY_CHECK(rank_ <= kMaxRank, "a tensor has at most {} dimensions, not {}", kMaxRank, rank_);
  std::copy(shape.begin(), shape.end(), shape_.begin());
  for (const int64_t dim : shape) SY_CHECK(dim >= 0, "negative dimension in {}", shape_string());
}

int64_t Tensor::dim(int i) const {
  SY_CHECK(i >= 0 && i < rank_, "dim {} of a tensor of shape {}", i, shape_string());
  return shape_[static_cast<size_t>(i)];
}

int64_t Tensor::numel() const {
  if (rank_ < 0) return 0;
  int64_t product = 1;
  for (const int64_t dim : shape()) product *= dim;
  return product;
}

std::string Tensor::shape_string() const {
  if (rank_ < 0) return "(none)";
  return fmt::format("({})", fmt::join(shape(), ", "));
}

Tensor Tensor::rows(int64_t begin, int64_t count) const {
  SY_CHECK(rank_ >= 1 && begin >= 0 && count >= 0 && begin + count <= dim(0),
           "rows [{}, {}) of a tensor of shape {}", begin, begin + count, shape_string());
  Tensor view = *this;
  view.shape_[0] = count;
  const int64_t row_bytes = dim(0) == 0 ? 0 : bytes() / dim(0);
  view.data_ = static_cast<std::byte*>(data_) + begin * row_bytes;
  return view;
}

Tensor Tensor::reshape(std::initializer_list<int64_t> shape) const {
  Tensor view(data_, dtype_, shape);
  SY_CHECK(view.numel() == numel(), "cannot view {} as {}", shape_string(), view.shape_string());
  return view;
}

}  // namespace switchyard
