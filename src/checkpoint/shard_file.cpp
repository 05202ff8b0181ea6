#include "checkpoint/shard_file.h"

#include <algorithm>
#include <map>
#include <utility>

#include "checkpoint/checksum.h"
#include "core/error.h"

namespace switchyard {
namespace {

constexpr size_t kBufferBytes = size_t{8} << 20;  // portions from this size on go straight out

}  // namespace

Metadata shard_metadata(const CheckpointId& id, const ShardPlace& place) {
  Metadata metadata = {{"run_id", id.run_id},
                       {"lineage", id.lineage},
                       {"attempt", std::to_string(id.attempt)},
                       {"step", std::to_string(id.step)},
                       {"writer", std::to_string(place.writer)},
                       {"num_writers", std::to_string(place.num_writers)}};
  if (place.num_parts > 1) {
    metadata["part"] = std::to_string(place.part);
    metadata["num_parts"] = std::to_string(place.num_parts);
  }
  return metadata;
}

std::string shard_entry_name(const std::string& key, int64_t number) {
  return fmt::format("{}/{}", key, number);
}

ShardFile::ShardFile(Storage& storage, const std::string& staging_directory, const CheckpointId& id,
                     const ShardPlace& place, const std::vector<ShardPiece>& pieces)
    : written_{.file = shard_name(place)}, file_(storage, join(staging_directory, written_.file)) {
  SafetensorsHeader header{.metadata = shard_metadata(id, place)};
  std::map<std::string, int64_t> boxes_of_key;
  int64_t end = 0;
  for (const ShardPiece& piece : pieces) {
    const TensorInfo info{piece.dtype, piece.box.shape};
    SY_CHECK(is_tensor_key(piece.key), "a tensor named \"{}\" cannot be saved", piece.key);
    SY_CHECK(info.bytes() > 0, "an empty box of \"{}\"", piece.key);
    const int64_t begin = end;
    end += info.bytes();
    header.tensors.push_back(
        {shard_entry_name(piece.key, boxes_of_key[piece.key]++), info, begin, end});
    written_.chunks.push_back(
        {.file = written_.file, .begin = begin, .bytes = end - begin, .box = piece.box});
  }
  const std::string front = encode_header(header, kShardDataAlignment);
  const auto front_bytes = static_cast<int64_t>(front.size());
  const auto bytes_of_front = std::as_bytes(std::span(front));
  for (Chunk& chunk : written_.chunks) chunk.begin += front_bytes;
  written_.info = {.bytes = front_bytes + end,
                   .header_bytes = front_bytes,
                   .header_crc32c = crc32c(bytes_of_front)};
  file_.reserve(written_.info.bytes);
  file_.append(bytes_of_front);
}

void ShardFile::append(std::span<const std::byte> bytes) {
  take_checksums(bytes);
  if (buffer_.size() + bytes.size() > kBufferBytes) write_buffer();
  if (bytes.size() >= kBufferBytes)
    file_.append(bytes);
  else
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

void ShardFile::take_checksums(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    SY_CHECK(chunk_ < written_.chunks.size(), "{}: {} bytes too many", written_.file, bytes.size());
    Chunk& chunk = written_.chunks[chunk_];
    if (chunk_bytes_ % kChecksumBlockBytes == 0) chunk.crc32c.push_back(0);
    const int64_t left_in_block = kChecksumBlockBytes - chunk_bytes_ % kChecksumBlockBytes;
    const int64_t left = std::min(left_in_block, chunk.bytes - chunk_bytes_);
    const auto part = bytes.first(std::min(bytes.size(), static_cast<size_t>(left)));
    chunk.crc32c.back() = crc32c(part, chunk.crc32c.back());
    bytes = bytes.subspan(part.size());
    chunk_bytes_ += static_cast<int64_t>(part.size());
    if (chunk_bytes_ == chunk.bytes) {
      ++chunk_;
      chunk_bytes_ = 0;
    }
  }
}

void ShardFile::write_buffer() {
  if (buffer_.empty()) return;
  file_.append(buffer_);
  buffer_.clear();
}

ShardFile::Written ShardFile::finish() {
  SY_CHECK(chunk_ == written_.chunks.size(), "{}: {} of {} boxes have come", written_.file, chunk_,
           written_.chunks.size());
  write_buffer();
  file_.sync();
  file_.close();
  return std::move(written_);
}

}  // namespace switchyard
