// Digests of tensors that no layout changes: the sum, modulo 2^64, over the elements of mix(index
// in the whole tensor, bits). The digests of boxes that cover a tensor once sum to the tensor's, in
// any order. An element that changes always changes the sum; elements that trade places, or are
// left out, do too, but for one case in 2^64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/box.h"
#include "checkpoint/held_tensor.h"

namespace switchyard {

// Of the box `box` of a tensor of `shape`, whose elements, row-major, are `bytes`.
uint64_t digest_of(std::span<const int64_t> shape, const Box& box, DType dtype,
                   std::span<const std::byte> bytes);
uint64_t digest_of(const HeldTensor& held, std::span<const std::byte> bytes);

// Of each, from the device. Waits for it; needs host memory for the largest.
std::vector<uint64_t> digests_of(const std::vector<HeldTensor>& held, Backend& backend);

}  // namespace switchyard
