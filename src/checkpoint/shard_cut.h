// How what a writer writes is cut into files, none of which is larger than a limit: file systems,
// stores and tools that copy have theirs. Pieces stay whole and in order, and the next file begins
// where one does not fit any more; only a piece that no file could hold is cut, into boxes.
//
// A pure function of the pieces: rank 0 knows the files of all ranks without being told.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/shard_file.h"

namespace switchyard {

constexpr int64_t kMaxFileBytes = int64_t{4} << 30;

using FilePieces = std::vector<ShardPiece>;

// The pieces of each file. None for no pieces. Error (kInternal) where a file cannot hold an
// element beside its header.
std::vector<FilePieces> cut_into_files(const std::vector<ShardPiece>& pieces,
                                       int64_t max_file_bytes);

}  // namespace switchyard
