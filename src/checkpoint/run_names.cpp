#include "checkpoint/run_names.h"

#include <fmt/format.h>

#include <charconv>
#include <string_view>
#include <utility>

namespace switchyard {
namespace {

constexpr std::pair<RunEntryKind, const char*> kPrefixes[] = {
    {RunEntryKind::kStep, "step-"},
    {RunEntryKind::kStaging, ".staging-"},
    {RunEntryKind::kDeleting, ".deleting-"},
    {RunEntryKind::kSuperseded, ".superseded-"},
    {RunEntryKind::kReplaced, ".replaced-"}};

std::optional<int64_t> parse_number(std::string_view text) {
  int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop != end || number < 0) return std::nullopt;
  return number;
}

}  // namespace

std::string name_of(const RunEntry& entry) {
  for (const auto& [kind, prefix] : kPrefixes) {
    if (kind != entry.kind) continue;
    const std::string name = fmt::format("{}{:09}", prefix, entry.step);
    return kind == RunEntryKind::kStep ? name : fmt::format("{}-{}", name, entry.attempt);
  }
  return "";
}

std::optional<RunEntry> parse_entry(const std::string& name) {
  for (const auto& [kind, prefix] : kPrefixes) {
    if (!name.starts_with(prefix)) continue;
    const std::string_view numbers = std::string_view(name).substr(std::string_view(prefix).size());
    const size_t dash = numbers.find('-');
    const auto step = parse_number(numbers.substr(0, dash));
    const auto attempt = dash == std::string_view::npos ? std::optional<int64_t>(0)
                                                        : parse_number(numbers.substr(dash + 1));
    if (!step || !attempt) return std::nullopt;
    const RunEntry entry{.kind = kind, .step = *step, .attempt = *attempt};
    if (name_of(entry) == name) return entry;  // one spelling only
  }
  return std::nullopt;
}

std::string shard_name(const ShardPlace& place) {
  const std::string part = place.num_parts == 1 ? "" : fmt::format("-{:05}", place.part);
  return fmt::format("w{:05}{}{}", place.writer, part, kShardSuffix);
}

std::string join(const std::string& directory, const std::string& name) {
  return directory.ends_with('/') ? directory + name : directory + "/" + name;
}

std::string directory_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string last_part_of(const std::string& path) {
  return path.substr(path.find_last_of('/') + 1);
}

const char* word_for(const std::string& path) {
  const std::string name = last_part_of(path);
  if (name.ends_with(kShardSuffix)) return "shard";
  if (name == kManifestFile) return "manifest";
  if (name.starts_with(kLatestFile)) return "latest";
  if (name.starts_with(kRunFile)) return "run_file";
  if (name.starts_with(kProbeFile)) return "probe";
  if (const auto entry = parse_entry(name)) {
    switch (entry->kind) {
      case RunEntryKind::kStep:
        return "step";
      case RunEntryKind::kStaging:
        return "staging";
      case RunEntryKind::kDeleting:
        return "deleting";
      case RunEntryKind::kSuperseded:
        return "superseded";
      case RunEntryKind::kReplaced:
        return "replaced";
    }
  }
  return name.find('.') == std::string::npos ? "directory" : "file";
}

}  // namespace switchyard
