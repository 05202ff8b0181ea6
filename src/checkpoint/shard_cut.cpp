#include "checkpoint/shard_cut.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/math.h"

namespace switchyard {
namespace {

// What a header takes at most: known before it is, so that it never makes a file too large.
constexpr int64_t kMetadataBytes = 1024;  // shard_metadata(), and the length in front

int64_t entry_bytes(const ShardPiece& piece) {
  // "KEY/N":{"data_offsets":[N,N],"dtype":"BF16","shape":[N,...]},
  constexpr int64_t kFixed = 64, kNumber = 20;
  const auto numbers = static_cast<int64_t>(3 + piece.box.shape.size());
  return kFixed + static_cast<int64_t>(piece.key.size()) + numbers * kNumber;
}

int64_t header_bytes(int64_t entries) {
  return round_up(kMetadataBytes + entries, kShardDataAlignment);
}

// The piece, or what it must be cut into, in the order of its elements.
std::vector<ShardPiece> parts_of(const ShardPiece& piece, int64_t max_file_bytes) {
  const auto item = static_cast<int64_t>(size_in_bytes(piece.dtype));
  const int64_t room = max_file_bytes - header_bytes(entry_bytes(piece));
  const int64_t numel = piece.box.numel(), most = room / item;
  SY_CHECK(room >= item, "a file of {} bytes cannot hold an element of \"{}\"", max_file_bytes,
           piece.key);
  if (numel <= most) return {piece};
  std::vector<ShardPiece> parts;
  for (int64_t begin = 0; begin < numel; begin += most)
    for (Box& box : contiguous_boxes(piece.box.shape, begin, std::min(numel, begin + most)))
      parts.push_back({piece.key, piece.dtype, placed_in(piece.box, std::move(box))});
  return parts;
}

}  // namespace

std::vector<FilePieces> cut_into_files(const std::vector<ShardPiece>& pieces,
                                       int64_t max_file_bytes) {
  std::vector<FilePieces> files;
  int64_t entries = 0, data = 0;  // bytes of the last file
  for (const ShardPiece& piece : pieces)
    for (ShardPiece& part : parts_of(piece, max_file_bytes)) {
      const int64_t entry = entry_bytes(part), bytes = part.bytes();
      if (files.empty() || header_bytes(entries + entry) + data + bytes > max_file_bytes) {
        files.emplace_back();
        entries = data = 0;
      }
      files.back().push_back(std::move(part));
      entries += entry;
      data += bytes;
    }
  return files;
}

}  // namespace switchyard
