#include "checkpoint/box.h"

#include <cstring>
#include <functional>
#include <numeric>

#include "core/error.h"

namespace switchyard {
namespace {

int64_t product(std::span<const int64_t> dims) {
  return std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>());
}

// Visits the runs of elements that lie side by side in both, one row of the last dimension each:
// where they begin in the whole and in the box, and how long they are, in bytes.
void for_each_run(const TensorInfo& info, const Box& box,
                  const std::function<void(size_t whole, size_t part, size_t bytes)>& visit) {
  const size_t rank = info.shape.size();
  SY_CHECK(box.offset.size() == rank && box.shape.size() == rank,
           "a box of {} dimensions in a tensor of {}", box.shape.size(), rank);
  for (size_t d = 0; d < rank; ++d)
    SY_CHECK(
        box.offset[d] >= 0 && box.shape[d] >= 0 && box.offset[d] + box.shape[d] <= info.shape[d],
        "dim {}: {} elements from {} on, of {}", d, box.shape[d], box.offset[d], info.shape[d]);
  const int64_t run = rank == 0 ? 1 : box.shape.back();
  const auto item = static_cast<int64_t>(size_in_bytes(info.dtype));
  for (int64_t element = 0; element < box.numel(); element += run) {
    int64_t rest = element, place = 0, stride = 1;
    for (size_t d = rank; d-- > 0;) {
      place += (box.offset[d] + rest % box.shape[d]) * stride;
      rest /= box.shape[d];
      stride *= info.shape[d];
    }
    visit(static_cast<size_t>(place * item), static_cast<size_t>(element * item),
          static_cast<size_t>(run * item));
  }
}

}  // namespace

int64_t Box::numel() const { return product(shape); }

void copy_into(std::span<std::byte> whole, const TensorInfo& info, const Box& box,
               std::span<const std::byte> part) {
  SY_CHECK(static_cast<int64_t>(whole.size()) == info.bytes() &&
               static_cast<int64_t>(part.size()) ==
                   box.numel() * static_cast<int64_t>(size_in_bytes(info.dtype)),
           "{} bytes of a box into {} bytes of a tensor", part.size(), whole.size());
  for_each_run(info, box, [&](size_t to, size_t from, size_t bytes) {
    std::memcpy(whole.data() + to, part.data() + from, bytes);
  });
}

std::vector<std::byte> cut_out(std::span<const std::byte> whole, const TensorInfo& info,
                               const Box& box) {
  SY_CHECK(static_cast<int64_t>(whole.size()) == info.bytes(), "{} bytes of a tensor of {}",
           whole.size(), info.bytes());
  std::vector<std::byte> part(static_cast<size_t>(box.numel()) * size_in_bytes(info.dtype));
  for_each_run(info, box, [&](size_t from, size_t to, size_t bytes) {
    std::memcpy(part.data() + to, whole.data() + from, bytes);
  });
  return part;
}

}  // namespace switchyard
