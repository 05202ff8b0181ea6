// Box: a rectangular part of a row-major tensor, such as one rank's slice of it, and the way of its
// elements into the whole and out of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"

namespace switchyard {

struct Box {
  std::vector<int64_t> offset, shape;  // by dimension, as many as the whole has

  int64_t numel() const;
  bool operator==(const Box&) const = default;
};

// Product of dimensions, none of which is negative. Error (kInternal) where it does not fit.
int64_t numel_of(std::span<const int64_t> shape);
std::string shape_text(std::span<const int64_t> shape);  // "(2, 3)"
std::string box_text(const Box& box);                    // "[2:4, 0:3]"

Box whole_box(const std::vector<int64_t>& shape);
// `box` lies in a tensor of `shape`; false too for negative sizes and other numbers of dimensions.
bool fits(const Box& box, std::span<const int64_t> shape);
// What lies in both; of no elements where nothing does.
Box intersection(const Box& a, const Box& b);
// A box counted from the first element of `outer`, counted from the start of the whole, and back.
Box placed_in(const Box& outer, Box inner);
Box counted_from(const Box& outer, Box box);

// The elements [begin, end) of a row-major tensor of `shape` as boxes, one after another in that
// order: at most 2 * dimensions - 1 of them. The elements of each lie side by side in the tensor.
std::vector<Box> contiguous_boxes(std::span<const int64_t> shape, int64_t begin, int64_t end);

// Elements that lie side by side both in a tensor and in a part of it.
struct Run {
  int64_t whole = 0, part = 0;  // place of the first, in elements
  int64_t count = 0;
};
// The elements of `box`, as the longest such runs, in its own row-major order. Error (kInternal)
// for a box that does not fit.
void for_each_run(std::span<const int64_t> shape, const Box& box,
                  const std::function<void(const Run&)>& visit);

// The elements of `box`, in its own row-major order, to their places in the whole.
void copy_into(std::span<std::byte> whole, const TensorInfo& info, const Box& box,
               std::span<const std::byte> part);
// The elements of `box` in its own row-major order.
std::vector<std::byte> cut_out(std::span<const std::byte> whole, const TensorInfo& info,
                               const Box& box);

}  // namespace switchyard
