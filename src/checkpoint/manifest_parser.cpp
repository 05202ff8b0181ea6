// parse_manifest(): nothing that a manifest says is used before it is checked here.
#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <utility>

#include "checkpoint/box_cover.h"
#include "checkpoint/checksum.h"
#include "checkpoint/manifest.h"
#include "checkpoint/manifest_text.h"
#include "checkpoint/strict_json.h"
#include "core/error.h"

namespace switchyard {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int kMaxDepth = 32;  // of the configuration; the rest needs 6
constexpr size_t kMaxDimensions = 8;
constexpr size_t kMaxText = 256, kMaxBuildText = 1024;  // cmake/WriteThisCode.cmake keeps to them
constexpr int kCrcBytes = sizeof(uint32_t), kDigestBytes = sizeof(uint64_t);

// ---- The whole ----

// Returns the number of the format.
int known_format(const json& manifest, const std::string& path) {
  const auto format = manifest.find("format");
  SY_REQUIRE(kData, format != manifest.end(), "{}: \"format\" is missing: it is no manifest", path);
  for (int version = kOldestManifestVersion; version <= kManifestVersion; ++version)
    if (*format == fmt::format("{}{}", kManifestFormat, version)) return version;
  fail(
      ExitCode::kData, __FILE__, __LINE__,
      fmt::format("{}: format {} found, but this version of the program reads \"{}{}\" to \"{}\"",
                  path, shown(*format), kManifestFormat, kOldestManifestVersion, kManifestVersion));
}

void require_keys_of_format(const json& manifest, int version, const std::string& path) {
  std::vector<const char*> keys = {"format", "run_id", "lineage", "attempt",
                                   "step",   "time",   "config",  "layout",
                                   "train",  "files",  "tensors", kManifestCrcKey};
  if (version == 1)
    keys.push_back("version");
  else
    keys.insert(keys.end(), {"code", "config_sha256"});
  require_keys(manifest, keys, path);
}

struct FoundChecksum {
  bool is_there = false;  // the text ends in one
  uint32_t says = 0, expected = 0;
};

FoundChecksum find_checksum(const std::string& text) {
  const size_t ending_bytes = checksum_ending(0).size();
  const std::string body = text.substr(0, text.size() - std::min(text.size(), ending_bytes));
  // The digits of the checksum are the end but for "\"}\n".
  constexpr size_t kDigits = 2 * kCrcBytes, kBehindDigits = 3;
  FoundChecksum found;
  if (text.size() >= kDigits + kBehindDigits)
    std::from_chars(text.data() + text.size() - kBehindDigits - kDigits,
                    text.data() + text.size() - kBehindDigits, found.says, 16);
  found.is_there = text == body + checksum_ending(found.says);
  const std::string zeroed = body + checksum_ending(0);
  found.expected = crc32c(std::as_bytes(std::span(zeroed)));
  return found;
}

// Before anything else: nothing is to be learnt from a manifest of wrong bytes.
void check_checksum(const std::string& text, const std::string& path) {
  const FoundChecksum found = find_checksum(text);
  if (!found.is_there) {
    // A format to come may end in some other way.
    known_format(parse_strict_json(text, kMaxDepth, path, "the manifest"), path);
    fail(ExitCode::kData, __FILE__, __LINE__,
         fmt::format("{}: the manifest does not end in its checksum: it was cut off or changed",
                     path));
  }
  SY_REQUIRE(kData, found.says == found.expected,
             "{}: the manifest is corrupt: checksum {} of its bytes, but it says {}", path,
             hex_text(found.expected, kCrcBytes), hex_text(found.says, kCrcBytes));
}

// Looking up a key of ordered JSON takes time proportional to their number.
void check_numbers_of_keys(const json& value, const std::string& where) {
  constexpr size_t kMaxKeys = 1000;
  if (!value.is_structured()) return;
  SY_REQUIRE(kData, value.is_array() || value.size() <= kMaxKeys,
             "{}: an object of {} keys, expected at most {}", where, value.size(), kMaxKeys);
  for (const json& member : value) check_numbers_of_keys(member, where);
}

// Those parts of which the order of keys is kept. `root` is the same text, checked.
ordered_json parse_ordered_parts(const std::string& text, const json& root,
                                 const std::string& path) {
  for (const char* key : {"config", "layout", "train"}) {
    SY_REQUIRE(kData, root[key].is_object(), "{}: \"{}\" is no object", path, key);
    check_numbers_of_keys(root[key], fmt::format("{}: \"{}\"", path, key));
  }
  const auto skip_tables = [](int depth, ordered_json::parse_event_t event, ordered_json& key) {
    return depth != 1 || event != ordered_json::parse_event_t::key ||
           (key != "files" && key != "tensors");
  };
  return ordered_json::parse(text, skip_tables);
}

bool consists_of(const std::string& text, const char* more_characters) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view(more_characters).find(c) != std::string_view::npos;
  });
}

// In the directory of the manifest, and nowhere else.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name.size() <= kMaxText && name[0] != '.' && consists_of(name, "._-");
}

std::string parse_id(const json& value, const char* key, const std::string& path) {
  std::string id = parse_text(value, key, path);
  SY_REQUIRE(kData, is_plain_file_name(id),
             "{}: {} {} found, expected up to {} letters, digits, '.', '_' and '-'", path, key,
             shown(value), kMaxText);
  return id;
}

std::string parse_remark(const json& value, const char* key, const std::string& path,
                         size_t max_text = kMaxText) {
  std::string remark = parse_text(value, key, path);
  SY_REQUIRE(
      kData,
      remark.size() <= max_text &&
          std::all_of(remark.begin(), remark.end(), [](char c) { return c >= 32 && c < 127; }),
      "{}: {} {} found, expected up to {} printable characters", path, key, shown(value), max_text);
  return remark;
}

CodeInfo parse_code(const json& manifest, int version, const std::string& path) {
  if (version == 1) return {.version = parse_remark(manifest["version"], "version", path)};
  const json& code = manifest["code"];
  const std::string where = path + ": code";
  require_keys(code, std::array{"version", "revision", "compiler", "build"}, where);
  return {.version = parse_remark(code["version"], "version", where),
          .revision = parse_remark(code["revision"], "revision", where),
          .compiler = parse_remark(code["compiler"], "compiler", where),
          .build = parse_remark(code["build"], "build", where, kMaxBuildText)};
}

void check_config_sha256(const json& value, const ordered_json& config, const std::string& path) {
  const std::string expected = config_sha256(config);
  SY_REQUIRE(kData, value == expected, "{}: config_sha256 {} found, but that of \"config\" is {}",
             path, shown(value), expected);
}

// ---- Files ----

SavedFile parse_file(const std::string& name, const json& value, const std::string& path) {
  const std::string where = fmt::format("{}: file {}", path, shown(name));
  SY_REQUIRE(kData, is_plain_file_name(name),
             "{}: not a plain file name of up to {} letters, digits, '.', '_' and '-'", where,
             kMaxText);
  require_keys(value, std::array{"bytes", "header_bytes", "header_crc32c"}, where);
  const SavedFile file{.bytes = parse_size(value["bytes"], "bytes", where),
                       .header_bytes = parse_size(value["header_bytes"], "header_bytes", where),
                       .header_crc32c = static_cast<uint32_t>(
                           parse_hex(value["header_crc32c"], kCrcBytes, "header_crc32c", where))};
  SY_REQUIRE(kData, file.header_bytes <= file.bytes, "{}: a header of {} bytes in a file of {}",
             where, file.header_bytes, file.bytes);
  return file;
}

// The data of each file is exactly its chunks: every byte has a checksum.
void check_files_are_covered(const Manifest& manifest, const std::string& path) {
  struct Place {
    const Chunk* chunk;
    const std::string* key;
  };
  std::map<std::string, std::vector<Place>> places;
  for (const auto& [key, tensor] : manifest.tensors)
    for (const Chunk& chunk : tensor.chunks) places[chunk.file].push_back({&chunk, &key});
  for (const auto& [name, file] : manifest.files) {
    std::vector<Place>& of_file = places[name];
    std::sort(of_file.begin(), of_file.end(),
              [](const Place& a, const Place& b) { return a.chunk->begin < b.chunk->begin; });
    int64_t end = file.header_bytes;
    for (const auto& [chunk, key] : of_file) {
      SY_REQUIRE(kData, chunk->begin == end,
                 "{}: file \"{}\": a chunk of tensor \"{}\" begins at byte {}, expected {}: chunks "
                 "overlap or leave a hole",
                 path, name, *key, chunk->begin, end);
      end += chunk->bytes;
    }
    SY_REQUIRE(kData, end == file.bytes, "{}: file \"{}\": chunks up to byte {} of {}", path, name,
               end, file.bytes);
  }
}

// ---- Tensors ----

std::vector<uint32_t> parse_crcs(const json& value, int64_t bytes, const std::string& where) {
  const int64_t blocks = bytes / kChecksumBlockBytes + (bytes % kChecksumBlockBytes != 0);
  SY_REQUIRE(kData, value.is_array() && static_cast<int64_t>(value.size()) == blocks,
             "{}: crc32c {} found, expected a list of {} checksums for {} bytes", where,
             shown(value), blocks, bytes);
  std::vector<uint32_t> crcs;
  for (const json& crc : value)
    crcs.push_back(static_cast<uint32_t>(parse_hex(crc, kCrcBytes, "crc32c", where)));
  return crcs;
}

Chunk parse_chunk(const json& value, const TensorInfo& info, const Manifest& manifest,
                  const std::string& where) {
  require_keys(value, std::array{"file", "begin", "bytes", "offset", "shape", "crc32c"}, where);
  Chunk chunk{.file = parse_text(value["file"], "file", where),
              .begin = parse_size(value["begin"], "begin", where),
              .bytes = parse_size(value["bytes"], "bytes", where),
              .box = {.offset = parse_sizes(value["offset"], "offset", where),
                      .shape = parse_sizes(value["shape"], "shape", where)}};
  const auto file = manifest.files.find(chunk.file);
  SY_REQUIRE(kData, file != manifest.files.end(), "{}: file {} is not among \"files\"", where,
             shown(value["file"]));
  SY_REQUIRE(kData,
             chunk.begin >= file->second.header_bytes && chunk.begin <= file->second.bytes &&
                 chunk.bytes <= file->second.bytes - chunk.begin,
             "{}: bytes {} + {} are not in the data of \"{}\", from byte {} to {}", where,
             chunk.begin, chunk.bytes, chunk.file, file->second.header_bytes, file->second.bytes);
  SY_REQUIRE(kData, fits(chunk.box, info.shape),
             "{}: offset {} and shape {} do not fit a tensor of shape {}", where,
             shown(value["offset"]), shown(value["shape"]), shape_text(info.shape));
  int64_t bytes = 0;  // of a part of a tensor that checked_bytes() accepted
  const bool is_sized = checked_bytes({info.dtype, chunk.box.shape}, bytes);
  SY_REQUIRE(kData, is_sized && bytes > 0 && bytes == chunk.bytes,
             "{}: {} bytes for {} of shape {}", where, chunk.bytes, name_of(info.dtype),
             shown(value["shape"]));
  chunk.crc32c = parse_crcs(value["crc32c"], bytes, where);
  return chunk;
}

// The dtype or role that has this name.
template <typename Value, size_t kCount>
Value parse_name(const json& value, const std::array<Value, kCount>& all,
                 const char* (*name)(Value), const char* key, const std::string& where) {
  for (const Value one : all)
    if (value == name(one)) return one;
  fail(ExitCode::kData, __FILE__, __LINE__,
       fmt::format("{}: {} {} is not known", where, key, shown(value)));
}

constexpr std::array kRoles = {TensorRole::kParam, TensorRole::kMaster, TensorRole::kExpAvg,
                               TensorRole::kExpAvgSq, TensorRole::kState};
constexpr std::array kDTypes = {DType::kF32, DType::kF64, DType::kBF16,
                                DType::kI32, DType::kI64, DType::kU8};
static_assert(kDTypes.size() == kDTypeTraits.size());

// The key begins with the role that tensor_key() gave it.
void check_key(const std::string& key, TensorRole role, const std::string& where) {
  SY_REQUIRE(kData, is_tensor_key(key),
             "{}: the name has characters other than letters, digits, '.', '_', '-' and '/', or is "
             "none, or longer than {}",
             where, kMaxTensorKey);
  TensorRole named = TensorRole::kParam;
  for (const TensorRole one : kRoles)
    if (one != TensorRole::kParam && key.starts_with(tensor_key(one, ""))) named = one;
  SY_REQUIRE(kData, role == named, "{}: role \"{}\", but by its name \"{}\"", where,
             role_name(role), role_name(named));
}

SavedTensor parse_tensor(const std::string& key, const json& value, const Manifest& manifest,
                         const std::string& path) {
  const std::string where = fmt::format("{}: tensor {}", path, shown(key));
  require_keys(value, std::array{"role", "dtype", "shape", "digest", "chunks"}, where);
  SavedTensor tensor{.role = parse_name(value["role"], kRoles, role_name, "role", where),
                     .dtype = parse_name<DType>(value["dtype"], kDTypes, name_of, "dtype", where),
                     .shape = parse_sizes(value["shape"], "shape", where),
                     .digest = parse_hex(value["digest"], kDigestBytes, "digest", where)};
  check_key(key, tensor.role, where);
  const TensorInfo info{tensor.dtype, tensor.shape};
  int64_t bytes = 0;
  SY_REQUIRE(kData, tensor.shape.size() <= kMaxDimensions && checked_bytes(info, bytes),
             "{}: shape {} has more than {} dimensions or 2^63 bytes", where, shown(value["shape"]),
             kMaxDimensions);
  SY_REQUIRE(kData, value["chunks"].is_array(), "{}: chunks {} found, expected a list", where,
             shown(value["chunks"]));
  std::vector<const Box*> boxes;
  for (const json& chunk : value["chunks"])
    tensor.chunks.push_back(parse_chunk(chunk, info, manifest,
                                        fmt::format("{}, chunk {}", where, tensor.chunks.size())));
  for (const Chunk& chunk : tensor.chunks) boxes.push_back(&chunk.box);
  SY_REQUIRE(kData, cover_once(boxes, tensor.shape),
             "{}: its {} chunks overlap or do not cover all of shape {}", where, boxes.size(),
             shape_text(tensor.shape));
  return tensor;
}

}  // namespace

bool is_tensor_key(const std::string& key) {
  return !key.empty() && key.size() <= kMaxTensorKey && consists_of(key, "._-/");
}

bool is_newer_manifest(const std::string& text) {
  const std::string begin = fmt::format("{{\"format\": \"{}", kManifestFormat);
  if (!text.starts_with(begin)) return false;
  int version = 0;
  std::from_chars(text.data() + begin.size(), text.data() + text.size(), version);
  if (version <= kManifestVersion) return false;
  const FoundChecksum found = find_checksum(text);
  return !found.is_there || found.says == found.expected;
}

Manifest parse_manifest(const std::string& text, const std::string& path) {
  check_checksum(text, path);
  const json root = parse_strict_json(text, kMaxDepth, path, "the manifest");
  const int version = known_format(root, path);
  require_keys_of_format(root, version, path);
  ordered_json ordered = parse_ordered_parts(text, root, path);
  Manifest manifest{.id = {.run_id = parse_id(root["run_id"], "run_id", path),
                           .lineage = parse_id(root["lineage"], "lineage", path),
                           .attempt = parse_size(root["attempt"], "attempt", path),
                           .step = parse_size(root["step"], "step", path)},
                    .time = parse_remark(root["time"], "time", path),
                    .code = parse_code(root, version, path),
                    .config = std::move(ordered["config"]),
                    .layout = std::move(ordered["layout"]),
                    .train = std::move(ordered["train"])};
  if (version > 1) check_config_sha256(root["config_sha256"], manifest.config, path);
  for (const char* table : {"files", "tensors"})
    SY_REQUIRE(kData, root[table].is_object(), "{}: \"{}\" is no object", path, table);
  for (const auto& [name, value] : root["files"].items())
    manifest.files[name] = parse_file(name, value, path);
  for (const auto& [key, value] : root["tensors"].items())
    manifest.tensors[key] = parse_tensor(key, value, manifest, path);
  check_files_are_covered(manifest, path);
  return manifest;
}

}  // namespace switchyard
