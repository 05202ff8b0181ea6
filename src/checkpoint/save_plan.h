// SavePlan: who writes what, into which files. Every element is written once, by one of the ranks
// that hold it, and bytes are spread over the ranks as evenly as what they hold allows. A pure
// function of the declarations: the same on all ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/declarations.h"
#include "checkpoint/shard_cut.h"

namespace switchyard {

// Elements that a rank writes: a stretch of one of its held tensors.
struct SavePiece {
  size_t region = 0;
  size_t held = 0;               // index among the rank's held tensors
  int64_t begin = 0, count = 0;  // elements, counted in the held tensor
};

struct SavePlan {
  std::vector<Region> regions = {};
  std::vector<std::vector<SavePiece>> pieces = {};  // by rank, in the order of held tensors
  std::vector<int64_t> bytes = {};                  // by rank
  int64_t max_file_bytes = kMaxFileBytes;

  int64_t total_bytes() const;
  double max_over_mean_bytes() const;  // 1: perfect balance, or nothing to write
};

// Errors: regions_of().
SavePlan plan_save(const std::vector<Declarations>& by_rank,
                   int64_t max_file_bytes = kMaxFileBytes);

// The piece as boxes of the whole tensor, one after another in the held tensor's memory.
std::vector<Box> boxes_of(const SavePiece& piece, const Region& region);

// The files of a rank, in the order in which it writes them.
std::vector<FilePieces> files_of(const SavePlan& plan, int rank);

}  // namespace switchyard
