// Box: a rectangular part of a row-major tensor, such as one rank's slice of it, and the way of its
// elements into the whole and out of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/safetensors.h"

namespace switchyard {

struct Box {
  std::vector<int64_t> offset, shape;  // by dimension, as many as the whole has

  int64_t numel() const;
};

// The elements of `box`, in its own row-major order, to their places in the whole.
void copy_into(std::span<std::byte> whole, const TensorInfo& info, const Box& box,
               std::span<const std::byte> part);
// The elements of `box` in its own row-major order.
std::vector<std::byte> cut_out(std::span<const std::byte> whole, const TensorInfo& info,
                               const Box& box);

}  // namespace switchyard
