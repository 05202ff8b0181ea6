#include "checkpoint/checkpoint_reader.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "checkpoint/checksum.h"
#include "checkpoint/digest.h"
#include "checkpoint/run_names.h"
#include "checkpoint/safetensors_header.h"
#include "checkpoint/shard_file.h"
#include "checkpoint/strict_json.h"
#include "core/error.h"

namespace switchyard {
namespace {

constexpr size_t kMaxOpenFiles = 64;

Manifest read_manifest(const std::string& step_directory) {
  const std::string path = join(step_directory, kManifestFile);
  return parse_manifest(read_file_of_checkpoint(path, kMaxManifestBytes), path);
}

std::string crc_text(uint32_t crc) { return hex_text(crc, sizeof(crc)); }

int64_t bytes_of_block(const Chunk& chunk, int64_t block) {
  return std::min(kChecksumBlockBytes, chunk.bytes - block * kChecksumBlockBytes);
}

// Where a header of wrong bytes says that it belongs, if it can still be read: files of two
// checkpoints may have been mixed up.
std::string origin_of(const std::string& header_json) {
  const auto header = nlohmann::json::parse(header_json, nullptr, false);
  const auto entry = header.find("__metadata__");  // end() of what is no object
  return entry == header.end() ? "" : ": its header says " + shown(*entry);
}

using EntriesByFile = std::map<std::string, std::vector<PlacedTensor>>;

// What the headers of all files must list, in the order of places.
EntriesByFile entries_of(const Manifest& manifest) {
  EntriesByFile entries;
  for (const auto& [name, file] : manifest.files) entries[name];
  for (const auto& [key, tensor] : manifest.tensors) {
    std::vector<const Chunk*> chunks;
    for (const Chunk& chunk : tensor.chunks) chunks.push_back(&chunk);
    std::sort(chunks.begin(), chunks.end(),
              [](const Chunk* a, const Chunk* b) { return a->begin < b->begin; });
    std::map<std::string, int64_t> boxes_of_file;
    for (const Chunk* chunk : chunks) {
      const int64_t begin = chunk->begin - manifest.files.at(chunk->file).header_bytes;
      entries[chunk->file].push_back({shard_entry_name(key, boxes_of_file[chunk->file]++),
                                      {tensor.dtype, chunk->box.shape},
                                      begin,
                                      begin + chunk->bytes});
    }
  }
  for (auto& [name, of_file] : entries)
    std::sort(of_file.begin(), of_file.end(),
              [](const PlacedTensor& a, const PlacedTensor& b) { return a.begin < b.begin; });
  return entries;
}

}  // namespace

CheckpointReader::CheckpointReader(const std::string& step_directory)
    : CheckpointReader(step_directory, read_manifest(step_directory)) {}

CheckpointReader::CheckpointReader(std::string step_directory, Manifest manifest)
    : directory_(std::move(step_directory)), manifest_(std::move(manifest)) {}

// ---- Files ----

std::string CheckpointReader::path_of(const std::string& name) const {
  return join(directory_, name);
}

const File& CheckpointReader::file(const std::string& name) const {
  const auto open = open_files_.find(name);
  if (open != open_files_.end()) return open->second;
  if (open_files_.size() == kMaxOpenFiles) open_files_.clear();
  File opened = File::open_of_checkpoint(path_of(name));
  const int64_t expected = manifest_.files.at(name).bytes;
  SY_REQUIRE(kData, opened.size() == expected,
             "{}: {} bytes found, expected {}: the file was cut off or appended to, or is of "
             "another checkpoint",
             opened.path(), opened.size(), expected);
  return open_files_.emplace(name, std::move(opened)).first->second;
}

void CheckpointReader::check_files() const {
  for (const auto& [name, entries] : entries_of(manifest_)) check_header(name, entries);
}

// The JSON, after the checksum of it all.
std::string CheckpointReader::read_header(const std::string& name) const {
  const SavedFile& saved = manifest_.files.at(name);
  SY_REQUIRE(kData,
             saved.header_bytes >= kHeaderLengthBytes &&
                 saved.header_bytes - kHeaderLengthBytes <= kMaxHeaderBytes,
             "{}: a header of {} bytes, expected {} to {}", path_of(name), saved.header_bytes,
             kHeaderLengthBytes, kHeaderLengthBytes + kMaxHeaderBytes);
  std::string header(static_cast<size_t>(saved.header_bytes), '\0');
  file(name).read_at(0, std::as_writable_bytes(std::span(header)));
  const uint32_t crc = crc32c(std::as_bytes(std::span(header)));
  std::string json = header.substr(kHeaderLengthBytes);
  SY_REQUIRE(
      kData, crc == saved.header_crc32c,
      "{}: the header is corrupt, or of another checkpoint: checksum {} found, expected {}{}",
      path_of(name), crc_text(crc), crc_text(saved.header_crc32c), origin_of(json));
  uint64_t json_bytes = 0;
  std::memcpy(&json_bytes, header.data(), sizeof(json_bytes));
  SY_REQUIRE(kData, json_bytes == json.size(), "{}: a header of {} bytes found, expected {}",
             path_of(name), json_bytes, json.size());
  return json;
}

void CheckpointReader::check_header(const std::string& name,
                                    const std::vector<PlacedTensor>& entries) const {
  const std::string path = path_of(name);
  const SavedFile& saved = manifest_.files.at(name);
  const SafetensorsHeader header =
      parse_header(read_header(name), saved.bytes - saved.header_bytes, path);
  // Which file it is, only its name says; of how many, nobody has to know.
  const auto field = [&](const char* key) {
    const auto found = header.metadata.find(key);
    return found == header.metadata.end() ? std::string() : found->second;
  };
  const bool is_part = header.metadata.contains("part");
  Metadata expected = shard_metadata(manifest_.id, {.num_parts = is_part ? 2 : 1});
  for (const char* key : {"writer", "num_writers", "part", "num_parts"})
    if (const auto of_place = expected.find(key); of_place != expected.end())
      of_place->second = field(key);
  SY_REQUIRE(kData, header.metadata == expected,
             "{}: a file of another checkpoint: {} found, expected {}", path,
             shown(header.metadata), shown(expected));
  const std::string part = is_part ? fmt::format("-{:0>5}", field("part")) : "";
  SY_REQUIRE(kData, fmt::format("w{:0>5}{}{}", field("writer"), part, kShardSuffix) == name,
             "{}: {}a file of writer {} by its header", path,
             is_part ? fmt::format("part {} of ", shown(field("part"))) : "",
             shown(field("writer")));
  SY_REQUIRE(kData, header.tensors == entries,
             "{}: the header does not list the {} boxes that the manifest does", path,
             entries.size());
}

// ---- Data ----

std::string CheckpointReader::key_of(const Chunk& chunk) const {
  for (const auto& [key, tensor] : manifest_.tensors)
    for (const Chunk& one : tensor.chunks)
      if (one.file == chunk.file && one.begin == chunk.begin) return key;
  return "";
}

void CheckpointReader::read_block(const Chunk& chunk, int64_t block,
                                  std::span<std::byte> out) const {
  const int64_t begin = chunk.begin + block * kChecksumBlockBytes;
  file(chunk.file).read_at(begin, out);
  const uint32_t crc = crc32c(out);
  const uint32_t expected = chunk.crc32c[static_cast<size_t>(block)];
  SY_REQUIRE(kData, crc == expected,
             "{}: tensor \"{}\" {}, block {} (bytes {} to {} of the file) is corrupt: checksum {} "
             "found, expected {}",
             path_of(chunk.file), key_of(chunk), box_text(chunk.box), block, begin,
             begin + static_cast<int64_t>(out.size()), crc_text(crc), crc_text(expected));
}

void CheckpointReader::read(const Chunk& chunk, int64_t begin, std::span<std::byte> out) const {
  SY_CHECK(begin >= 0 && static_cast<int64_t>(out.size()) <= chunk.bytes - begin,
           "bytes {} + {} of a chunk of {}", begin, out.size(), chunk.bytes);
  while (!out.empty()) {
    const int64_t block = begin / kChecksumBlockBytes;
    const int64_t skip = begin % kChecksumBlockBytes;
    const int64_t block_bytes = bytes_of_block(chunk, block);
    const auto count = std::min(static_cast<size_t>(block_bytes - skip), out.size());
    if (static_cast<int64_t>(count) == block_bytes) {
      read_block(chunk, block, out.first(count));
    } else {
      const std::span<const std::byte> whole = kept_block(chunk, block);
      std::memcpy(out.data(), whole.data() + skip, count);
    }
    out = out.subspan(count);
    begin += static_cast<int64_t>(count);
  }
}

std::span<const std::byte> CheckpointReader::kept_block(const Chunk& chunk, int64_t block) const {
  const int64_t begin = chunk.begin + block * kChecksumBlockBytes;
  if (kept_.file == chunk.file && kept_.begin == begin) return kept_.bytes;
  kept_.file.clear();  // nothing is kept if the next lines fail
  kept_.bytes.resize(static_cast<size_t>(bytes_of_block(chunk, block)));
  read_block(chunk, block, kept_.bytes);
  kept_.file = chunk.file;
  kept_.begin = begin;
  return kept_.bytes;
}

// ---- Everything ----

uint64_t CheckpointReader::digest_of_chunk(const SavedTensor& tensor, const Chunk& chunk) const {
  const auto item = static_cast<int64_t>(size_in_bytes(tensor.dtype));
  static_assert(kChecksumBlockBytes % 8 == 0, "blocks begin at elements");
  uint64_t digest = 0;
  std::vector<std::byte> bytes;
  for (int64_t block = 0; block < static_cast<int64_t>(chunk.crc32c.size()); ++block) {
    bytes.resize(static_cast<size_t>(bytes_of_block(chunk, block)));
    read_block(chunk, block, bytes);
    const int64_t first = block * kChecksumBlockBytes / item;
    std::span<const std::byte> rest = bytes;
    for (const Box& part : contiguous_boxes(chunk.box.shape, first,
                                            first + static_cast<int64_t>(bytes.size()) / item)) {
      const auto part_bytes = static_cast<size_t>(part.numel() * item);
      digest +=
          digest_of(tensor.shape, placed_in(chunk.box, part), tensor.dtype, rest.first(part_bytes));
      rest = rest.subspan(part_bytes);
    }
  }
  return digest;
}

void CheckpointReader::verify_everything() const {
  check_files();
  // File by file, from front to back: disks read ahead.
  std::vector<std::pair<const std::string*, const Chunk*>> chunks;
  for (const auto& [key, tensor] : manifest_.tensors)
    for (const Chunk& chunk : tensor.chunks) chunks.emplace_back(&key, &chunk);
  std::sort(chunks.begin(), chunks.end(), [](const auto& a, const auto& b) {
    return std::tie(a.second->file, a.second->begin) < std::tie(b.second->file, b.second->begin);
  });
  std::map<std::string, uint64_t> digests;
  for (const auto& [key, chunk] : chunks)
    digests[*key] += digest_of_chunk(manifest_.tensors.at(*key), *chunk);
  for (const auto& [key, tensor] : manifest_.tensors) {
    const uint64_t digest = digests[key];
    SY_REQUIRE(kData, digest == tensor.digest,
               "{}: tensor \"{}\": digest {} of its elements, expected {}: other elements were "
               "written than the checkpoint was made of",
               directory_, key, hex_text(digest, sizeof(digest)),
               hex_text(tensor.digest, sizeof(digest)));
  }
}

}  // namespace switchyard
