#include "inspect/garbage.h"

#include <algorithm>
#include <filesystem>

#include "checkpoint/file.h"
#include "checkpoint/run_directory.h"
#include "checkpoint/run_entries.h"
#include "core/error.h"
#include "inspect/text_table.h"

namespace switchyard {
namespace {

constexpr int64_t kNotLoaded = -1;  // no job is at work that may need what it was loaded from

const RunIdentity& identity_of(const RunContents& contents) {
  SY_REQUIRE(kData, contents.identity, "{}: the next start of the run mends it",
             contents.identity_problem);
  return *contents.identity;
}

// Of a job that is no more. What another has the place of, but not what comes back (run_names.h).
bool is_left_over(const RunItem& item, const std::string& run) {
  switch (item.entry.kind) {
    case RunEntryKind::kStaging:
    case RunEntryKind::kDeleting:
      return true;
    case RunEntryKind::kReplaced:
      return exists(join(run, name_of({.kind = RunEntryKind::kStep, .step = item.entry.step})));
    default:
      return false;
  }
}

}  // namespace

Retention retention_of_run(const std::string& run) {
  constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
  const std::string path = join(run, "config.json");
  const auto json =
      nlohmann::json::parse(read_file_of_checkpoint(path, kMaxConfigBytes), nullptr, false);
  try {
    const auto& checkpoint = json.at("checkpoint");
    return {.keep_last = checkpoint.at("keep_last"), .keep_every = checkpoint.at("keep_every")};
  } catch (const nlohmann::json::exception&) {
    fail(ExitCode::kData, __FILE__, __LINE__,
         path + " does not say what to keep: give --keep-last and --keep-every");
  }
}

std::vector<RunItem> garbage_of(const RunContents& contents, const Retention& retention) {
  const std::vector<RunEntry> expired =
      expired_entries(contents.directory, identity_of(contents).run_id, retention, kNotLoaded);
  std::vector<RunItem> garbage;
  for (const RunItem& item : contents.items)
    if (is_left_over(item, contents.directory)
            ? !contents.at_work
            : std::find(expired.begin(), expired.end(), item.entry) != expired.end())
      garbage.push_back(item);
  return garbage;
}

std::vector<RunItem> collect_garbage(Storage& storage, const std::string& run,
                                     const Retention& retention) {
  RunContents contents = contents_of_run(run);
  contents.at_work.reset();  // if there is anybody, the lock says so
  const std::vector<RunItem> garbage = garbage_of(contents, retention);
  RunDirectory directory(storage, run, {.lock_wait_s = 0, .is_attempt = false});
  directory.remove_old(retention, kNotLoaded);
  for (const RunItem& item : garbage)
    SY_REQUIRE(kStorage, !exists(item.directory), "{} cannot be removed", item.directory);
  return garbage;
}

std::string garbage_text(const std::vector<RunItem>& garbage, const char* verb) {
  std::string text;
  int64_t bytes = 0;
  for (const RunItem& item : garbage) {
    text += fmt::format("  {} {}\n", name_of(item.entry), megabytes(item.bytes));
    bytes += item.bytes;
  }
  return text + fmt::format("{} {} director{}, {}\n", verb, garbage.size(),
                            garbage.size() == 1 ? "y" : "ies", megabytes(bytes));
}

}  // namespace switchyard
