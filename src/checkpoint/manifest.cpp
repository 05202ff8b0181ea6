#include "checkpoint/manifest.h"

#include "checkpoint/checksum.h"
#include "checkpoint/manifest_text.h"
#include "checkpoint/strict_json.h"
#include "core/error.h"

namespace switchyard {
namespace {

using nlohmann::ordered_json;

constexpr int kCrcBytes = sizeof(uint32_t), kDigestBytes = sizeof(uint64_t);

ordered_json json_of(const SavedFile& file) {
  return {{"bytes", file.bytes},
          {"header_bytes", file.header_bytes},
          {"header_crc32c", hex_text(file.header_crc32c, kCrcBytes)}};
}

ordered_json json_of(const Chunk& chunk) {
  ordered_json crcs = ordered_json::array();
  for (const uint32_t crc : chunk.crc32c) crcs.push_back(hex_text(crc, kCrcBytes));
  return {{"file", chunk.file},         {"begin", chunk.begin},     {"bytes", chunk.bytes},
          {"offset", chunk.box.offset}, {"shape", chunk.box.shape}, {"crc32c", crcs}};
}

ordered_json json_of(const SavedTensor& tensor) {
  ordered_json chunks = ordered_json::array();
  for (const Chunk& chunk : tensor.chunks) chunks.push_back(json_of(chunk));
  return {{"role", role_name(tensor.role)},
          {"dtype", name_of(tensor.dtype)},
          {"shape", tensor.shape},
          {"digest", hex_text(tensor.digest, kDigestBytes)},
          {"chunks", chunks}};
}

// One line for each entry.
template <typename Value>
std::string table_text(const std::map<std::string, Value>& table) {
  std::string text;
  for (const auto& [key, value] : table)
    text += fmt::format("{}\n  {}: {}", text.empty() ? "" : ",", ordered_json(key).dump(),
                        json_of(value).dump());
  return fmt::format("{{{}}}", text);
}

}  // namespace

std::string tensor_key(TensorRole role, const std::string& name) {
  return role == TensorRole::kParam ? name : fmt::format("{}/{}", role_name(role), name);
}

const char* role_name(TensorRole role) {
  switch (role) {
    case TensorRole::kParam:
      return "param";
    case TensorRole::kMaster:
      return "master";
    case TensorRole::kExpAvg:
      return "exp_avg";
    case TensorRole::kExpAvgSq:
      return "exp_avg_sq";
    case TensorRole::kState:
      return "state";
  }
  SY_CHECK(false, "a tensor of role {}", static_cast<int>(role));
}

nlohmann::ordered_json code_json(const CodeInfo& code) {
  return {{"version", code.version},
          {"revision", code.revision},
          {"compiler", code.compiler},
          {"build", code.build}};
}

std::string config_sha256(const nlohmann::ordered_json& config) { return sha256(config.dump()); }

std::string to_json(const Manifest& manifest) {
  const ordered_json front = {
      {"run_id", manifest.id.run_id},   {"lineage", manifest.id.lineage},
      {"attempt", manifest.id.attempt}, {"step", manifest.id.step},
      {"time", manifest.time},          {"code", code_json(manifest.code)},
      {"config", manifest.config},      {"config_sha256", config_sha256(manifest.config)},
      {"layout", manifest.layout},      {"train", manifest.train}};
  std::string text = fmt::format("{{\"format\": \"{}{}\"", kManifestFormat, kManifestVersion);
  for (const auto& [key, value] : front.items())
    text += fmt::format(",\n \"{}\": {}", key, value.dump());
  text += fmt::format(",\n \"files\": {},\n \"tensors\": {}", table_text(manifest.files),
                      table_text(manifest.tensors));
  return with_checksum(text);
}

std::string with_checksum(std::string text) {
  text += checksum_ending(0);
  const uint32_t crc = crc32c(std::as_bytes(std::span(text)));
  const std::string ending = checksum_ending(crc);
  return text.replace(text.size() - ending.size(), ending.size(), ending);
}

std::string checksum_ending(uint32_t crc) {
  return fmt::format(",\n \"{}\": \"{}\"}}\n", kManifestCrcKey, hex_text(crc, kCrcBytes));
}

}  // namespace switchyard
