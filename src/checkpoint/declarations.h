// Declarations: what all ranks of a job hold, without the data. From them every rank comes to the
// same conclusions: who writes what (save_plan.h), which copies must be equal (tensor_digests.h),
// whether a checkpoint fits (load_state.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/held_tensor.h"
#include "comm/communicator.h"
#include "core/dtype.h"

namespace switchyard {

// A held tensor without its data.
struct Declaration {
  std::string key = {};
  TensorRole role = TensorRole::kParam;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape = {};  // of the whole
  Box box = {};

  int64_t bytes() const;  // of the box
  bool operator==(const Declaration&) const = default;
};
using Declarations = std::vector<Declaration>;  // of one rank, in the order of its held tensors

Declarations declarations_of(const std::vector<HeldTensor>& held);

// Compact JSON: how declarations travel. The text comes from a rank of the same job: what is wrong
// with it is an internal error.
std::string to_text(const Declarations& declarations);
Declarations declarations_from_text(const std::string& text);

// Of all ranks, on every rank. Collective.
std::vector<Declarations> exchange_declarations(const Declarations& mine, Communicator& world);

// A box of a tensor that the same ranks hold.
struct Region {
  struct Holder {
    int rank = 0;
    size_t held = 0;  // index among the rank's held tensors

    bool operator==(const Holder&) const = default;
  };
  Declaration tensor = {};
  std::vector<Holder> holders = {};  // in the order of ranks, at least one
};

// Ordered by key, then by the offset of the box. Errors (kInternal), with the ranks: ranks that
// disagree about a tensor, boxes that overlap without being equal, elements that nobody holds.
std::vector<Region> regions_of(const std::vector<Declarations>& by_rank);

}  // namespace switchyard
