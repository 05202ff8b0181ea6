// CheckpointReader: a checkpoint on disk. No byte of it is used before the checksum of its block is
// found right.
//
// Errors: kData for what is wrong in a file, or missing, naming it and, in data, the tensor, the
// block and both checksums; kStorage where the medium fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/file.h"
#include "checkpoint/manifest.h"
#include "checkpoint/safetensors_header.h"

namespace switchyard {

class CheckpointReader {
 public:
  // Reads and validates the manifest, nothing else.
  explicit CheckpointReader(const std::string& step_directory);
  // The manifest came from elsewhere, validated.
  CheckpointReader(std::string step_directory, Manifest manifest);

  const Manifest& manifest() const { return manifest_; }

  // Each file is there, of the right size, with the header that it was written with, and belongs to
  // this checkpoint. Reads no data.
  void check_files() const;

  // Bytes of a chunk of the manifest, from `begin` on. Whole blocks go straight to `out`; of others
  // the last is kept. One thread at a time.
  void read(const Chunk& chunk, int64_t begin, std::span<std::byte> out) const;

  // check_files(), every byte of data, and the digest of every tensor.
  void verify_everything() const;

 private:
  struct Block {
    std::string file = {};
    int64_t begin = 0;  // in the file
    std::vector<std::byte> bytes = {};
  };

  const File& file(const std::string& name) const;
  std::string path_of(const std::string& name) const;
  std::string read_header(const std::string& name) const;
  void check_header(const std::string& name, const std::vector<PlacedTensor>& entries) const;
  void read_block(const Chunk& chunk, int64_t block, std::span<std::byte> out) const;
  std::span<const std::byte> kept_block(const Chunk& chunk, int64_t block) const;
  uint64_t digest_of_chunk(const SavedTensor& tensor, const Chunk& chunk) const;
  std::string key_of(const Chunk& chunk) const;

  std::string directory_;
  Manifest manifest_;
  mutable std::map<std::string, File> open_files_;
  mutable Block kept_;
};

}  // namespace switchyard
