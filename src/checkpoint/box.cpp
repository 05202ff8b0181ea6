#include "checkpoint/box.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace switchyard {
namespace {

// for_each_run() in bytes.
void for_each_run_of_bytes(const TensorInfo& info, const Box& box,
                           const std::function<void(size_t whole, size_t part, size_t)>& visit) {
  const auto item = static_cast<int64_t>(size_in_bytes(info.dtype));
  for_each_run(info.shape, box, [&](const Run& run) {
    visit(static_cast<size_t>(run.whole * item), static_cast<size_t>(run.part * item),
          static_cast<size_t>(run.count * item));
  });
}

// Place of an index in a row-major tensor.
int64_t place_of(std::span<const int64_t> shape, std::span<const int64_t> index) {
  int64_t place = 0;
  for (size_t d = 0; d < shape.size(); ++d) place = place * shape[d] + index[d];
  return place;
}

}  // namespace

int64_t Box::numel() const { return numel_of(shape); }

int64_t numel_of(std::span<const int64_t> shape) {
  if (std::count(shape.begin(), shape.end(), 0) > 0) return 0;
  int64_t numel = 1;
  for (const int64_t dim : shape)
    SY_CHECK(dim > 0 && !__builtin_mul_overflow(numel, dim, &numel), "a tensor of shape {}",
             shape_text(shape));
  return numel;
}

std::string shape_text(std::span<const int64_t> shape) {
  return fmt::format("({})", fmt::join(shape, ", "));
}

std::string box_text(const Box& box) {
  std::vector<std::string> ranges;
  for (size_t d = 0; d < box.shape.size(); ++d)
    ranges.push_back(fmt::format("{}:{}", box.offset[d], box.offset[d] + box.shape[d]));
  return fmt::format("[{}]", fmt::join(ranges, ", "));
}

Box whole_box(const std::vector<int64_t>& shape) {
  return {.offset = std::vector<int64_t>(shape.size(), 0), .shape = shape};
}

bool fits(const Box& box, std::span<const int64_t> shape) {
  if (box.offset.size() != shape.size() || box.shape.size() != shape.size()) return false;
  for (size_t d = 0; d < shape.size(); ++d)
    if (box.offset[d] < 0 || box.shape[d] < 0 || box.shape[d] > shape[d] ||
        box.offset[d] > shape[d] - box.shape[d])
      return false;
  return true;
}

Box intersection(const Box& a, const Box& b) {
  SY_CHECK(a.shape.size() == b.shape.size(), "boxes of {} and {} dimensions", a.shape.size(),
           b.shape.size());
  Box both;
  for (size_t d = 0; d < a.shape.size(); ++d) {
    const int64_t begin = std::max(a.offset[d], b.offset[d]);
    const int64_t end = std::min(a.offset[d] + a.shape[d], b.offset[d] + b.shape[d]);
    both.offset.push_back(begin);
    both.shape.push_back(std::max<int64_t>(0, end - begin));
  }
  return both;
}

Box placed_in(const Box& outer, Box inner) {
  SY_CHECK(fits(inner, outer.shape), "box {} in one of shape {}", box_text(inner),
           shape_text(outer.shape));
  for (size_t d = 0; d < inner.shape.size(); ++d) inner.offset[d] += outer.offset[d];
  return inner;
}

Box counted_from(const Box& outer, Box box) {
  for (size_t d = 0; d < box.shape.size(); ++d) box.offset[d] -= outer.offset[d];
  SY_CHECK(fits(box, outer.shape), "box {} in one of shape {}", box_text(box),
           shape_text(outer.shape));
  return box;
}

// From `begin` on, ever larger boxes, and towards `end` ever smaller ones.
std::vector<Box> contiguous_boxes(std::span<const int64_t> shape, int64_t begin, int64_t end) {
  SY_CHECK(0 <= begin && begin <= end && end <= numel_of(shape), "elements {} to {} of shape {}",
           begin, end, shape_text(shape));
  const size_t rank = shape.size();
  std::vector<Box> boxes;
  if (rank == 0 && begin < end) boxes.emplace_back();
  while (rank > 0 && begin < end) {
    // The outermost dimension of which a whole index begins at `begin` and fits.
    size_t d = rank - 1;
    int64_t stride = 1;  // elements of one index of dimension d
    while (d > 0 && begin % (stride * shape[d]) == 0 && begin + stride * shape[d] <= end)
      stride *= shape[d--];
    Box box = whole_box({shape.begin(), shape.end()});
    int64_t rest = begin / stride;
    for (size_t i = d + 1; i-- > 0;) {
      box.offset[i] = rest % shape[i];
      box.shape[i] = 1;
      rest /= shape[i];
    }
    box.shape[d] = std::min((end - begin) / stride, shape[d] - box.offset[d]);
    begin += box.shape[d] * stride;
    boxes.push_back(std::move(box));
  }
  return boxes;
}

void for_each_run(std::span<const int64_t> shape, const Box& box,
                  const std::function<void(const Run&)>& visit) {
  SY_CHECK(fits(box, shape), "box {} in a tensor of shape {}", box_text(box), shape_text(shape));
  const int64_t numel = box.numel();
  if (numel == 0) return;
  // Dimensions from `inner` on are one run.
  size_t inner = shape.size();
  int64_t count = 1;
  while (inner > 0) {
    count *= box.shape[--inner];
    if (box.shape[inner] != shape[inner]) break;
  }
  std::vector<int64_t> index = box.offset;
  for (int64_t part = 0; part < numel; part += count) {
    visit({.whole = place_of(shape, index), .part = part, .count = count});
    for (size_t d = inner; d-- > 0;) {
      if (++index[d] < box.offset[d] + box.shape[d]) break;
      index[d] = box.offset[d];
    }
  }
}

void copy_into(std::span<std::byte> whole, const TensorInfo& info, const Box& box,
               std::span<const std::byte> part) {
  SY_CHECK(static_cast<int64_t>(whole.size()) == info.bytes() &&
               static_cast<int64_t>(part.size()) ==
                   box.numel() * static_cast<int64_t>(size_in_bytes(info.dtype)),
           "{} bytes of a box into {} bytes of a tensor", part.size(), whole.size());
  for_each_run_of_bytes(info, box, [&](size_t to, size_t from, size_t bytes) {
    std::memcpy(whole.data() + to, part.data() + from, bytes);
  });
}

std::vector<std::byte> cut_out(std::span<const std::byte> whole, const TensorInfo& info,
                               const Box& box) {
  SY_CHECK(static_cast<int64_t>(whole.size()) == info.bytes(), "{} bytes of a tensor of {}",
           whole.size(), info.bytes());
  std::vector<std::byte> part(static_cast<size_t>(box.numel()) * size_in_bytes(info.dtype));
  for_each_run_of_bytes(info, box, [&](size_t from, size_t to, size_t bytes) {
    std::memcpy(part.data() + to, whole.data() + from, bytes);
  });
  return part;
}

}  // namespace switchyard
