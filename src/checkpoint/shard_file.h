// ShardFile: what one rank writes of a checkpoint, or a part of it: a safetensors file of boxes of
// tensors. Its entries are named "{key}/{n}" for the n-th box (from 0) of that tensor in the file,
// and its `__metadata__` says which file of which checkpoint it is. The data begins at a multiple
// of 4096.
//
// Checksums are taken of the bytes as they come, before they leave for the file system, so that
// whatever happens to them on the way is noticed when they are read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "checkpoint/run_names.h"
#include "checkpoint/safetensors_header.h"
#include "checkpoint/storage.h"

namespace switchyard {

struct ShardPiece {
  std::string key = {};
  DType dtype = DType::kF32;
  Box box = {};  // of the whole tensor, at least one element

  int64_t bytes() const { return TensorInfo{dtype, box.shape}.bytes(); }
};

constexpr int64_t kShardDataAlignment = 4096;

// What a shard's header says of where it belongs; of parts, only where there are several.
Metadata shard_metadata(const CheckpointId& id, const ShardPlace& place);
std::string shard_entry_name(const std::string& key, int64_t number);

// Errors: kStorage; kInternal for pieces that no checkpoint can hold.
class ShardFile {
 public:
  // Takes the space for everything and writes the header.
  ShardFile(Storage& storage, const std::string& staging_directory, const CheckpointId& id,
            const ShardPlace& place, const std::vector<ShardPiece>& pieces);

  // The bytes of the pieces, row-major, one piece after another, in portions of any size.
  void append(std::span<const std::byte> bytes);

  struct Written {
    std::string file = {};  // without directory
    SavedFile info = {};
    std::vector<Chunk> chunks = {};  // of each piece
  };
  // All bytes must have come. Waits until they have reached the disk.
  Written finish();

 private:
  void take_checksums(std::span<const std::byte> bytes);
  void write_buffer();

  Written written_;
  OutputFile file_;
  size_t chunk_ = 0;                    // that the next byte belongs to
  int64_t chunk_bytes_ = 0;             // of it that have come
  std::vector<std::byte> buffer_ = {};  // checksums are taken, not yet written
};

}  // namespace switchyard
