// Digests of tensors (core/digest.h) that no layout changes: the digests of boxes that cover a
// tensor once sum to the tensor's.
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

// Of each, computed on the device. Waits for it. For several times: with `memory` for the digests.
std::vector<uint64_t> digests_of(const std::vector<HeldTensor>& held, Backend& backend);
Buffer memory_for_digests(const std::vector<HeldTensor>& held, Backend& backend);
std::vector<uint64_t> digests_of(const std::vector<HeldTensor>& held, Backend& backend,
                                 const Buffer& memory);

}  // namespace switchyard
