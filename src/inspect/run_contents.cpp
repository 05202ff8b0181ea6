#include "inspect/run_contents.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checksum.h"
#include "checkpoint/file.h"
#include "checkpoint/latest_file.h"
#include "checkpoint/run_entries.h"
#include "core/error.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void read_identity(RunContents& contents) {
  const std::string path = join(contents.directory, kRunFile);
  try {
    contents.identity = read_run_file(path);
  } catch (const Error& error) {
    contents.identity_problem = error.what();
  }
}

// Error (kData): what LATEST names is not there, or has another manifest.
void check_latest(const std::string& run, const Latest& latest) {
  const std::string path = join(run, kLatestFile), step = join(run, latest.directory);
  SY_REQUIRE(kData, exists(step), "{} names {}, which is not there", path, latest.directory);
  SY_REQUIRE(kData, !latest.manifest_sha256.empty(),
             "{} does not say which manifest {} had: no manifest_sha256 (earlier versions wrote "
             "none)",
             path, latest.directory);
  const std::string manifest = join(step, kManifestFile);
  const std::string found = sha256(read_file_of_checkpoint(manifest, kMaxManifestBytes));
  SY_REQUIRE(kData, found == latest.manifest_sha256,
             "{} does not match: manifest_sha256 {}, but that of {} is {}", path,
             latest.manifest_sha256, manifest, found);
}

void read_latest(RunContents& contents) {
  const std::string path = join(contents.directory, kLatestFile);
  constexpr int kLooks = 3;  // a job at work may commit another step, and remove this one
  for (int look = 0; look < kLooks && exists(path); ++look) {
    const std::string text = text_of(path);
    contents.latest.reset();
    contents.latest_problem.clear();
    try {
      const Latest latest = parse_latest(text, path);
      contents.latest = latest.step;
      check_latest(contents.directory, latest);
    } catch (const Error& error) {
      contents.latest_problem = error.what();
    }
    if (contents.latest_problem.empty() || text_of(path) == text) return;
  }
}

std::optional<LockHolder> holder_of_lock(const std::string& run) {
  const auto holder = parse_lock_holder(text_of(join(run, kLockFile)));
  return holder && may_be_alive(*holder) ? holder : std::nullopt;
}

void look_into(RunItem& item, const std::optional<RunIdentity>& identity) {
  try {
    const CheckpointReader reader(item.directory);
    const Manifest& manifest = reader.manifest();
    item.id = manifest.id;
    item.time = manifest.time;
    item.layout = manifest.layout;
    if (const auto tokens = manifest.train.find("tokens");
        tokens != manifest.train.end() && tokens->is_number_integer())
      item.tokens = tokens->get<int64_t>();
    reader.check_files();
    if (identity && manifest.id.run_id != identity->run_id)
      item.problem = "of another run, " + manifest.id.run_id;
    else if (manifest.id.step != item.entry.step)
      item.problem = fmt::format("of step {}", manifest.id.step);
  } catch (const Error& error) {
    item.problem = error.what();
  }
}

}  // namespace

RunContents contents_of_run(const std::string& run) {
  SY_REQUIRE(kData, fs::is_directory(run), "{}: there is no such directory", run);
  RunContents contents{.directory = run};
  read_identity(contents);
  read_latest(contents);
  contents.at_work = holder_of_lock(run);
  for (const RunEntry& entry : entries_of(run)) {
    RunItem item{.entry = entry, .directory = join(run, name_of(entry))};
    item.bytes = bytes_in(item.directory);
    item.is_pinned = exists(join(item.directory, kPinFile));
    if (entry.kind == RunEntryKind::kStep || entry.kind == RunEntryKind::kSuperseded)
      look_into(item, contents.identity);
    if (exists(item.directory)) contents.items.push_back(std::move(item));  // not removed meanwhile
  }
  SY_REQUIRE(kData, contents.identity || !contents.items.empty() || exists(join(run, kRunFile)),
             "{} is neither a run directory nor a checkpoint: there is no {}, no step-*, no {}",
             run, kRunFile, kManifestFile);
  return contents;
}

bool is_checkpoint(const std::string& path) {
  return exists(join(path, kManifestFile)) ||
         (parse_entry(last_part_of(path)).has_value() && !exists(join(path, kRunFile)));
}

std::string plain_path(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

int64_t bytes_in(const std::string& directory) {
  int64_t bytes = 0;
  std::error_code gone;
  for (fs::recursive_directory_iterator i(directory, gone), end; !gone && i != end;
       i.increment(gone)) {
    std::error_code ignored;
    if (!i->is_regular_file(ignored) || i->is_symlink(ignored)) continue;
    const auto size = i->file_size(ignored);
    if (!ignored) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

std::string layout_text(const nlohmann::ordered_json& layout) {
  std::string text;
  for (const auto& [key, value] : layout.items()) {
    if (key == "ranks")
      text += fmt::format("{} rank{}", value.dump(), value == 1 ? "" : "s");
    else if (value != 1 || key == "zero_stage")
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", key, value.dump());
  }
  return text;
}

}  // namespace switchyard
