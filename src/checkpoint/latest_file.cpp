#include "checkpoint/latest_file.h"

#include <array>
#include <nlohmann/json.hpp>

#include "checkpoint/checksum.h"
#include "checkpoint/run_names.h"
#include "checkpoint/strict_json.h"
#include "core/error.h"

namespace switchyard {

std::string to_json(const Latest& latest) {
  nlohmann::ordered_json json = {{"step", latest.step}, {"directory", latest.directory}};
  if (!latest.manifest_sha256.empty()) json["manifest_sha256"] = latest.manifest_sha256;
  return json.dump() + "\n";
}

Latest parse_latest(const std::string& text, const std::string& path) {
  const nlohmann::json json = parse_strict_json(text, 1, path, "the file");
  const bool has_sha256 = json.contains("manifest_sha256");
  if (has_sha256)
    require_keys(json, std::array{"step", "directory", "manifest_sha256"}, path);
  else
    require_keys(json, std::array{"step", "directory"}, path);
  Latest latest{.step = parse_size(json["step"], "step", path),
                .directory = parse_text(json["directory"], "directory", path)};
  SY_REQUIRE(kData, latest.directory == name_of({.kind = RunEntryKind::kStep, .step = latest.step}),
             "{}: directory {} found for step {}", path, shown(json["directory"]), latest.step);
  if (!has_sha256) return latest;
  latest.manifest_sha256 = parse_text(json["manifest_sha256"], "manifest_sha256", path);
  SY_REQUIRE(kData, is_sha256(latest.manifest_sha256),
             "{}: manifest_sha256 {} found, expected 64 lower-case hexadecimal digits", path,
             shown(json["manifest_sha256"]));
  return latest;
}

}  // namespace switchyard
