#include "checkpoint/run_directory.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <system_error>
#include <utility>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checksum.h"
#include "checkpoint/file.h"
#include "checkpoint/latest_file.h"
#include "checkpoint/run_entries.h"
#include "core/error.h"
#include "core/log.h"

namespace switchyard {
namespace {

// The directory `path`, made if need be; without a slash at its end.
std::string open_directory(Storage& storage, std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  const std::string parent = directory_of(path);
  struct stat status = {};
  const bool is_there = lstat(path.c_str(), &status) == 0;
  SY_REQUIRE(kStorage, is_there || errno == ENOENT, "cannot use {} as a run directory: {}", path,
             std::generic_category().message(errno));
  if (is_there) {
    SY_REQUIRE(kStorage, !S_ISLNK(status.st_mode),
               "cannot use {} as a run directory: it is a symbolic link; name what it points to",
               path);
    SY_REQUIRE(kStorage, S_ISDIR(status.st_mode),
               "cannot use {} as a run directory: it is not a directory", path);
  } else {
    SY_REQUIRE(kStorage, exists(parent), "cannot make run directory {}: there is no directory {}",
               path, parent);
    storage.make_directory(path);
  }
  // Until run.json is there, nobody has made sure of the name of the directory itself. A directory
  // that somebody else made may lie where we cannot look.
  if (!exists(join(path, kRunFile)) && (!is_there || access(parent.c_str(), R_OK) == 0))
    storage.sync_directory(parent);
  return path;
}

// Who a checkpoint is; nothing if its manifest is not valid.
std::optional<CheckpointId> find_id(const std::string& directory) {
  try {
    return CheckpointReader(directory).manifest().id;
  } catch (const Error&) {
    return std::nullopt;
  }
}

// "" if it cannot be read.
std::string manifest_text(const std::string& directory) {
  try {
    return read_file_of_checkpoint(join(directory, kManifestFile), kMaxManifestBytes);
  } catch (const Error&) {
    return "";
  }
}

bool equal_digests(const Manifest& a, const Manifest& b) {
  return std::equal(a.tensors.begin(), a.tensors.end(), b.tensors.begin(), b.tensors.end(),
                    [](const auto& x, const auto& y) {
                      return x.first == y.first && x.second.dtype == y.second.dtype &&
                             x.second.shape == y.second.shape && x.second.digest == y.second.digest;
                    });
}

}  // namespace

RunDirectory::RunDirectory(Storage& storage, std::string path, const Options& options)
    : storage_(storage),
      path_(open_directory(storage, std::move(path))),
      lock_(join(path_, kLockFile), {.wait_s = options.lock_wait_s, .job_id = options.job_id}) {
  restore_replaced_steps();
  remove_leftovers();  // before anything is written: the disk may be full of them
  probe();
  identity_ = find_identity();
  if (options.is_attempt) {
    ++identity_.attempts;
    replace_file(storage_, join(path_, kRunFile), to_json(identity_));
  }
  if (options.allow_fresh && !is_new()) begin_anew();
}

bool RunDirectory::is_new() const {
  for (const RunEntry& entry : entries_of(path_)) {
    if (entry.kind == RunEntryKind::kStep) return false;
    if (entry.kind != RunEntryKind::kSuperseded) continue;
    const auto id = find_id(path_of(entry));
    if (id && id->run_id == identity_.run_id) return false;
  }
  return true;
}

std::vector<int64_t> RunDirectory::committed_steps() const { return committed_steps_in(path_); }

std::string RunDirectory::step_directory(int64_t step) const {
  return path_of({.kind = RunEntryKind::kStep, .step = step});
}

CheckpointId RunDirectory::id_of(int64_t step) const {
  return {.run_id = identity_.run_id,
          .lineage = identity_.lineage,
          .attempt = identity_.attempts,
          .step = step};
}

std::string RunDirectory::path_of(RunEntryKind kind, int64_t step) const {
  return path_of({.kind = kind, .step = step, .attempt = attempt()});
}

// ---- Start ----

// A job may have been killed between the two renames of put_in_place().
void RunDirectory::restore_replaced_steps() {
  for (const RunEntry& entry : entries_of(path_, RunEntryKind::kReplaced))
    if (!exists(step_directory(entry.step)))
      storage_.rename(path_of(entry), step_directory(entry.step));
}

void RunDirectory::remove_leftovers() {
  for (const RunEntry& entry : entries_of(path_))
    if (entry.kind == RunEntryKind::kStaging || entry.kind == RunEntryKind::kDeleting ||
        entry.kind == RunEntryKind::kReplaced)
      remove_tree(storage_, path_of(entry));
}

void RunDirectory::probe() {
  const std::string path = join(path_, kProbeFile), other = path + ".renamed";
  for (const std::string& left : {path, other})
    if (exists(left)) storage_.remove_file(left);
  OutputFile file(storage_, path);
  file.append(std::as_bytes(std::span("probe", 5)));
  file.sync();
  file.close();
  storage_.rename(path, other);
  storage_.remove_file(other);
}

RunIdentity RunDirectory::find_identity() const {
  const std::string run_file = join(path_, kRunFile);
  if (exists(run_file)) {
    try {
      return read_run_file(run_file);
    } catch (const Error& error) {
      if (error.code() != ExitCode::kData) throw;
      spdlog::warn("{}; made again from the checkpoints", error.what());
    }
  }
  RunIdentity identity{.run_id = "", .lineage = random_id()};
  for (const RunEntry& entry : entries_of(path_)) {
    identity.attempts = std::max(identity.attempts, entry.attempt);
    const auto id = find_id(path_of(entry));
    if (!id) continue;
    identity.attempts = std::max(identity.attempts, id->attempt);
    if (identity.run_id.empty()) identity.run_id = id->run_id;
  }
  if (identity.run_id.empty()) identity.run_id = random_id();
  return identity;
}

void RunDirectory::begin_anew() {
  for (const int64_t step : committed_steps()) supersede(step);
  storage_.sync_directory(path_);
  identity_.run_id = random_id();  // what was superseded is another run's now, and never removed
  identity_.lineage = random_id();
  replace_file(storage_, join(path_, kRunFile), to_json(identity_));
}

// ---- Saving ----

std::string RunDirectory::begin_save(int64_t step) {
  const std::string staging = path_of(RunEntryKind::kStaging, step);
  if (exists(staging)) remove_tree(storage_, staging);  // discard_save() failed
  // Its name is durable no sooner than the step's that it becomes.
  storage_.make_directory(staging);
  return staging;
}

RunDirectory::Commit RunDirectory::commit(const Manifest& manifest) {
  const int64_t step = manifest.id.step;
  SY_CHECK(manifest.id == id_of(step), "the manifest of step {} is of another attempt", step);
  if (holds_same(step_directory(step), manifest)) {
    storage_.sync_directory(path_);  // it may be there because this very sync has failed before
    discard_save(step);
    return Commit::kKept;
  }
  const std::string text = to_json(manifest);
  write_manifest(path_of(RunEntryKind::kStaging, step), text);
  SY_CHECK(manifest.id == id_of(step), "the run went back while step {} was committed", step);
  put_in_place(step);
  point_latest_to(step, text);
  return Commit::kCommitted;
}

void RunDirectory::discard(RunEntryKind kind, int64_t step) noexcept {
  try {
    if (exists(path_of(kind, step))) remove_tree(storage_, path_of(kind, step));
  } catch (const std::exception& error) {
    spdlog::warn("what is not needed stays until the next start: {}", error.what());
  }
}

void RunDirectory::write_manifest(const std::string& staging, const std::string& text) {
  OutputFile file(storage_, join(staging, kManifestFile));
  file.append(std::as_bytes(std::span(text)));
  file.sync();
  file.close();
  storage_.sync_directory(staging);
}

bool RunDirectory::holds_same(const std::string& directory, const Manifest& manifest) const {
  if (!exists(directory)) return false;
  try {
    const CheckpointReader reader(directory);
    const Manifest& other = reader.manifest();
    if (other.id.run_id != manifest.id.run_id || other.id.lineage != manifest.id.lineage ||
        other.id.step != manifest.id.step || !equal_digests(other, manifest))
      return false;
    reader.verify_everything();  // a job may be here again because its bytes are not what it says
    return true;
  } catch (const Error&) {
    return false;
  }
}

void RunDirectory::put_in_place(int64_t step) {
  const std::string target = step_directory(step);
  const std::string replaced = path_of(RunEntryKind::kReplaced, step);
  drop_replaced(step);
  const bool replaces = exists(target);
  if (replaces) storage_.rename(target, replaced);
  try {
    storage_.rename(path_of(RunEntryKind::kStaging, step), target);
  } catch (const Error&) {
    if (replaces) storage_.rename(replaced, target);
    throw;
  }
  storage_.sync_directory(path_);
  discard(RunEntryKind::kReplaced, step);
}

// What a step has replaced must not come back once the step itself goes.
void RunDirectory::drop_replaced(int64_t step) {
  for (const RunEntry& entry : entries_of(path_, RunEntryKind::kReplaced))
    if (entry.step == step) move_to_deleting(path_of(entry), step);
}

// `manifest`: its text; "" if it is not known.
void RunDirectory::point_latest_to(int64_t step, const std::string& manifest) {
  try {
    const Latest latest = {.step = step,
                           .directory = name_of({.kind = RunEntryKind::kStep, .step = step}),
                           .manifest_sha256 = manifest.empty() ? "" : sha256(manifest)};
    write_file(storage_, join(path_, kLatestFile), to_json(latest));
  } catch (const Error& error) {
    spdlog::warn("{} does not name step {}, which is committed nevertheless: {}", kLatestFile, step,
                 error.what());
  }
}

// ---- Removing and going back ----

std::vector<RunEntry> RunDirectory::to_remove(const Retention& retention,
                                              int64_t loaded_step) const {
  return expired_entries(path_, identity_.run_id, retention, loaded_step);
}

void RunDirectory::remove_old(const Retention& retention, int64_t loaded_step) noexcept {
  try {
    for (const RunEntry& entry : to_remove(retention, loaded_step)) {
      drop_replaced(entry.step);
      move_to_deleting(path_of(entry), entry.step);
    }
    const auto deleting = entries_of(path_, RunEntryKind::kDeleting);
    if (deleting.empty()) return;
    storage_.sync_directory(path_);
    for (const RunEntry& entry : deleting) remove_tree(storage_, path_of(entry));
  } catch (const std::exception& error) {
    spdlog::warn("old checkpoints stay until they can be removed: {}", error.what());
  }
}

void RunDirectory::go_back_to(int64_t step) {
  const std::vector<int64_t> steps = committed_steps();
  SY_REQUIRE(kData, std::find(steps.begin(), steps.end(), step) != steps.end(),
             "{} has no checkpoint of step {} to go back to", path_, step);
  if (steps.front() == step) return;
  for (const int64_t later : steps)  // the latest first, so that what is left is always a history
    if (later > step) supersede(later);
  storage_.sync_directory(path_);
  identity_.lineage = random_id();
  replace_file(storage_, join(path_, kRunFile), to_json(identity_));
  point_latest_to(step, manifest_text(step_directory(step)));
}

void RunDirectory::supersede(int64_t step) {
  const std::string target = path_of(RunEntryKind::kSuperseded, step);
  if (exists(target)) move_to_deleting(target, step);
  drop_replaced(step);
  storage_.rename(step_directory(step), target);
}

void RunDirectory::move_to_deleting(const std::string& path, int64_t step) {
  RunEntry target{.kind = RunEntryKind::kDeleting, .step = step, .attempt = attempt()};
  while (exists(path_of(target))) ++target.attempt;  // only keeps names apart
  storage_.rename(path, path_of(target));
}

}  // namespace switchyard
