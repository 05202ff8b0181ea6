#include "checkpoint/run_file.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <span>
#include <system_error>

#include "checkpoint/checksum.h"
#include "checkpoint/file.h"
#include "checkpoint/strict_json.h"
#include "core/error.h"

namespace switchyard {
namespace {

constexpr const char* kFormat = "switchyard-run/1";
constexpr int64_t kMaxRunFileBytes = 64 << 10;

}  // namespace

std::string random_id() {
  std::array<uint64_t, 2> bits = {};
  SY_REQUIRE(kInternal, getentropy(bits.data(), sizeof bits) == 0, "no random numbers: {}",
             std::generic_category().message(errno));
  return fmt::format("{:016x}{:016x}", bits[0], bits[1]);
}

std::string to_json(const RunIdentity& identity) {
  nlohmann::ordered_json json = {{"format", kFormat},
                                 {"run_id", identity.run_id},
                                 {"lineage", identity.lineage},
                                 {"attempts", identity.attempts}};
  const std::string text = json.dump();
  json["crc32c"] = crc32c(std::as_bytes(std::span(text)));
  return json.dump() + "\n";
}

RunIdentity parse_run_file(const std::string& text, const std::string& path) {
  const nlohmann::json json = parse_strict_json(text, 1, path, "the file");
  RunIdentity identity;
  try {
    identity = {.run_id = json.at("run_id"),
                .lineage = json.at("lineage"),
                .attempts = parse_size(json.at("attempts"), "attempts", path)};
  } catch (const nlohmann::json::exception& e) {
    fail(ExitCode::kData, __FILE__, __LINE__, fmt::format("{}: {}", path, e.what()));
  }
  SY_REQUIRE(kData, to_json(identity) == text, "{}: damaged, or not written by this program", path);
  return identity;
}

RunIdentity read_run_file(const std::string& path) {
  return parse_run_file(read_file_of_checkpoint(path, kMaxRunFileBytes), path);
}

}  // namespace switchyard
