// RunDirectory: starts, commits, what is there already, going back, beginning anew, damage.
#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checksum.h"
#include "checkpoint/run_directory.h"
#include "checkpoint/run_entries.h"
#include "core/error.h"
#include "support/catch.h"
#include "support/temporary_directory.h"
#include "tiny_save.h"

namespace switchyard::test {
namespace {

namespace fs = std::filesystem;
using Commit = RunDirectory::Commit;

constexpr RunDirectory::Options kQuick = {.lock_wait_s = 0};

ExitCode code_of_opening(Storage& storage, const std::string& path, std::string& message) {
  try {
    const RunDirectory run(storage, path, kQuick);
  } catch (const Error& error) {
    message = error.what();
    return error.code();
  }
  return ExitCode::kOk;
}

std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

// Turns over a bit of the data of a shard, which the manifest and the header do not show.
void spoil_data(const RunDirectory& run, int64_t step) {
  const std::string path = join(run.step_directory(step), "w00001.safetensors");
  std::string bytes = read_bytes(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_bytes(path, bytes);
}

// Fails one kind of call, for paths that contain a text.
class FailingStorage : public Storage {
 public:
  enum class Call { kCreate, kRename };
  FailingStorage(Call call, std::string part, int error)
      : call_(call), part_(std::move(part)), error_(error) {}

 protected:
  int system_create(const char* path) override {
    if (fails(Call::kCreate, path)) return -1;
    return Storage::system_create(path);
  }
  int system_rename(const char* from, const char* to) override {
    if (fails(Call::kRename, from)) return -1;
    return Storage::system_rename(from, to);
  }

 private:
  bool fails(Call call, const std::string& path) const {
    errno = error_;
    return call == call_ && path.find(part_) != std::string::npos;
  }

  Call call_;
  std::string part_;
  int error_;
};

TEST_CASE("a run directory is made, counts its starts and keeps its name") {
  const TemporaryDirectory directory;
  Storage storage;
  std::string run_id, lineage;
  {
    RunDirectory run(storage, directory.file("run/"), kQuick);
    CHECK(run.path() == directory.file("run"));
    CHECK(run.is_new());
    CHECK(run.attempt() == 1);
    CHECK(run.committed_steps().empty());
    CHECK(save_tiny(storage, run, 0, 7) == Commit::kCommitted);
    CHECK_FALSE(run.is_new());
    CHECK(save_tiny(storage, run, 10, 8) == Commit::kCommitted);
    CHECK(run.committed_steps() == std::vector<int64_t>{10, 0});
    CHECK(newest_tiny(run) == TinyFound{10, 8});
    CHECK(read_bytes(directory.file("run/LATEST")) ==
          "{\"step\":10,\"directory\":\"step-000000010\",\"manifest_sha256\":\"" +
              sha256(read_bytes(join(run.step_directory(10), kManifestFile))) + "\"}\n");
    run_id = run.id_of(0).run_id;
    lineage = run.id_of(0).lineage;
  }
  const RunDirectory run(storage, directory.file("run"), kQuick);
  CHECK_FALSE(run.is_new());
  CHECK(run.attempt() == 2);
  CHECK(run.id_of(20) == CheckpointId{run_id, lineage, 2, 20});
  CHECK(names_in(run.path()) ==
        std::vector<std::string>{"LATEST", "lock", "run.json", "step-000000000", "step-000000010"});
}

TEST_CASE("what cannot be a run directory is refused before anything is written") {
  const TemporaryDirectory directory;
  Storage storage;
  std::string message;
  CHECK(code_of_opening(storage, directory.file("a/b"), message) == ExitCode::kStorage);
  CHECK_THAT(message, contains_text("there is no directory " + directory.file("a")));
  write_bytes(directory.file("file"), "x");
  CHECK(code_of_opening(storage, directory.file("file"), message) == ExitCode::kStorage);
  CHECK_THAT(message, contains_text("is not a directory"));
  fs::create_directory(directory.file("real"));
  fs::create_directory_symlink(directory.file("real"), directory.file("link"));
  CHECK(code_of_opening(storage, directory.file("link"), message) == ExitCode::kStorage);
  CHECK_THAT(message, contains_text("symbolic link"));
  CHECK(names_in(directory.file("real")).empty());
}

TEST_CASE("a directory in which nothing can be written or renamed is refused") {
  const TemporaryDirectory directory;
  std::string message;
  FailingStorage read_only(FailingStorage::Call::kCreate, ".probe", EROFS);
  CHECK(code_of_opening(read_only, directory.file("run"), message) == ExitCode::kStorage);
  CHECK_THAT(message, contains_text("cannot create " + directory.file("run/.probe") +
                                    ": Read-only file system"));
  FailingStorage no_renames(FailingStorage::Call::kRename, ".probe", EPERM);
  CHECK(code_of_opening(no_renames, directory.file("run"), message) == ExitCode::kStorage);
  CHECK_FALSE(exists(directory.file("run/run.json")));
}

TEST_CASE("a job that dies before its first commit leaves a run that is new") {
  const TemporaryDirectory directory;
  Storage storage;
  {
    RunDirectory run(storage, directory.file("run"), kQuick);
    write_tiny_files(storage, run, 0, 1);
    CHECK(exists(directory.file("run/.staging-000000000-1")));
  }
  RunDirectory run(storage, directory.file("run"), kQuick);
  CHECK(run.is_new());
  CHECK(run.attempt() == 2);
  CHECK_FALSE(exists(directory.file("run/.staging-000000000-1")));
  CHECK(save_tiny(storage, run, 0, 1) == Commit::kCommitted);
}

TEST_CASE("a save that is given up leaves nothing, and can be begun again") {
  const TemporaryDirectory directory;
  Storage storage;
  RunDirectory run(storage, directory.file("run"), kQuick);
  write_tiny_files(storage, run, 0, 1);
  run.discard_save(0);
  run.discard_save(0);
  CHECK(names_in(run.path()) == std::vector<std::string>{"lock", "run.json"});
  write_tiny_files(storage, run, 0, 2);  // not given up, and begun again all the same
  CHECK(save_tiny(storage, run, 0, 3) == Commit::kCommitted);
  CHECK(newest_tiny(run) == TinyFound{0, 3});
}

TEST_CASE("a step that is there already is kept if it is the same, and replaced if not") {
  const TemporaryDirectory directory;
  Storage storage;
  RunDirectory run(storage, directory.file("run"), kQuick);
  save_tiny(storage, run, 0, 1);
  save_tiny(storage, run, 10, 2);
  SECTION("the same") {
    write_bytes(join(run.step_directory(10), "mark"), "");
    CHECK(save_tiny(storage, run, 10, 2) == Commit::kKept);
    CHECK(exists(join(run.step_directory(10), "mark")));
  }
  SECTION("other digests") {
    CHECK(save_tiny(storage, run, 10, 3) == Commit::kCommitted);
    CHECK(newest_tiny(run) == TinyFound{10, 3});
  }
  SECTION("the same by its manifest, but not by its bytes") {
    spoil_data(run, 10);
    REQUIRE(newest_tiny(run) == TinyFound{0, 1});
    CHECK(save_tiny(storage, run, 10, 2) == Commit::kCommitted);
    CHECK(newest_tiny(run) == TinyFound{10, 2});
  }
  SECTION("another lineage") {
    run.go_back_to(0);
    fs::rename(join(run.path(), ".superseded-000000010-1"), run.step_directory(10));
    CHECK(save_tiny(storage, run, 10, 2) == Commit::kCommitted);
    CHECK(CheckpointReader(run.step_directory(10)).manifest().id == run.id_of(10));
  }
  SECTION("damaged") {
    fs::remove(join(run.step_directory(10), kManifestFile));
    CHECK(save_tiny(storage, run, 10, 3) == Commit::kCommitted);
    CHECK(newest_tiny(run) == TinyFound{10, 3});
  }
  for (const RunEntry& entry : entries_of(run.path())) CHECK(entry.kind != RunEntryKind::kReplaced);
  for (const RunEntry& entry : entries_of(run.path())) CHECK(entry.kind != RunEntryKind::kStaging);
}

TEST_CASE("a step comes back that a job was killed while replacing, and only then") {
  const TemporaryDirectory directory;
  Storage storage;
  {
    RunDirectory run(storage, directory.file("run"), kQuick);
    save_tiny(storage, run, 0, 1);
    save_tiny(storage, run, 10, 2);
  }
  const auto replaced = directory.file("run/.replaced-000000010-1");
  fs::rename(directory.file("run/step-000000010"), replaced);
  {
    RunDirectory run(storage, directory.file("run"), kQuick);
    CHECK(newest_tiny(run) == TinyFound{10, 2});
    fs::copy(run.step_directory(10), replaced);
    run.go_back_to(0);
  }
  const RunDirectory run(storage, directory.file("run"), kQuick);
  CHECK(newest_tiny(run) == TinyFound{0, 1});
  CHECK_FALSE(exists(replaced));
}

TEST_CASE("what cannot be put in place leaves what was there before") {
  const TemporaryDirectory directory;
  FailingStorage storage(FailingStorage::Call::kRename, ".staging-000000010", EIO);
  RunDirectory run(storage, directory.file("run"), kQuick);
  save_tiny(storage, run, 0, 1);
  fs::copy(run.step_directory(0), run.step_directory(10));
  CHECK_THROWS_AS(save_tiny(storage, run, 10, 2), Error);
  CHECK(run.committed_steps() == std::vector<int64_t>{10, 0});
}

TEST_CASE("a disk with no room for LATEST does not undo a commit") {
  const TemporaryDirectory directory;
  FailingStorage storage(FailingStorage::Call::kCreate, kLatestFile, ENOSPC);
  RunDirectory run(storage, directory.file("run"), kQuick);
  CHECK(save_tiny(storage, run, 0, 1) == Commit::kCommitted);
  CHECK(newest_tiny(run) == TinyFound{0, 1});
  CHECK_FALSE(exists(directory.file("run/LATEST")));
}

TEST_CASE("a run that goes back has another lineage, and what was later is never taken again") {
  const TemporaryDirectory directory;
  Storage storage;
  {
    RunDirectory run(storage, directory.file("run"), kQuick);
    for (int64_t step : {0, 10, 20, 30}) save_tiny(storage, run, step, static_cast<int>(step));
    const std::string lineage = run.id_of(0).lineage;
    run.go_back_to(30);  // nothing is later
    CHECK(run.id_of(0).lineage == lineage);
    CHECK_THROWS_AS(run.go_back_to(15), Error);
    run.go_back_to(10);
    CHECK(run.id_of(0).lineage != lineage);
    CHECK(run.committed_steps() == std::vector<int64_t>{10, 0});
    CHECK(read_bytes(directory.file("run/LATEST")) ==
          "{\"step\":10,\"directory\":\"step-000000010\",\"manifest_sha256\":\"" +
              sha256(read_bytes(join(run.step_directory(10), kManifestFile))) + "\"}\n");
    save_tiny(storage, run, 20, 21);
    run.go_back_to(0);  // a second time behind step 20
    CHECK(names_in(run.path()) ==
          std::vector<std::string>{".deleting-000000020-1", ".superseded-000000010-1",
                                   ".superseded-000000020-1", ".superseded-000000030-1", "LATEST",
                                   "lock", "run.json", "step-000000000"});
    write_tiny_files(storage, run, 20, 22);  // killed here
  }
  const RunDirectory run(storage, directory.file("run"), kQuick);
  CHECK(run.committed_steps() == std::vector<int64_t>{0});
  CHECK_FALSE(run.is_new());
}

TEST_CASE("nothing but superseded checkpoints is not a new run, unless it is to begin anew") {
  const TemporaryDirectory directory;
  Storage storage;
  std::string run_id;
  {
    RunDirectory run(storage, directory.file("run"), kQuick);
    for (int64_t step : {0, 10}) save_tiny(storage, run, step, 1);
    run.go_back_to(0);
    fs::remove_all(run.step_directory(0));
    run_id = run.id_of(0).run_id;
    CHECK_FALSE(run.is_new());
    CHECK(run.committed_steps().empty());
  }
  {
    RunDirectory run(storage, directory.file("run"), {.lock_wait_s = 0, .allow_fresh = true});
    CHECK(run.is_new());
    CHECK(run.attempt() == 2);
    CHECK(run.id_of(0).run_id != run_id);
    save_tiny(storage, run, 0, 2);
    save_tiny(storage, run, 20, 3);
    run.remove_old({.keep_last = 1}, -1);
    CHECK(exists(directory.file("run/.superseded-000000010-1")));  // another run's
  }
  RunDirectory run(storage, directory.file("run"), {.lock_wait_s = 0, .allow_fresh = true});
  CHECK(run.is_new());
  CHECK(run.committed_steps().empty());
  CHECK(exists(directory.file("run/.superseded-000000020-3")));
}

TEST_CASE("run.json is made again from the checkpoints") {
  const TemporaryDirectory directory;
  Storage storage;
  CheckpointId id;
  {
    RunDirectory run(storage, directory.file("run"), kQuick);
    save_tiny(storage, run, 0, 1);
  }
  {
    RunDirectory run(storage, directory.file("run"), kQuick);
    save_tiny(storage, run, 10, 2);
    id = run.id_of(10);
  }
  const std::string path = directory.file("run/run.json");
  const std::string text = read_bytes(path);
  const int kind = GENERATE(0, 1, 2, 3);
  if (kind == 0) fs::remove(path);
  if (kind == 1) write_bytes(path, text.substr(0, text.size() / 2));
  if (kind == 2) write_bytes(path, "");
  if (kind == 3) {
    std::string other = text;
    char& digit = other[other.find("run_id") + 10];
    digit = digit == '1' ? '2' : '1';
    write_bytes(path, other);
  }
  const RunDirectory run(storage, directory.file("run"), kQuick);
  CHECK(run.id_of(10).run_id == id.run_id);
  CHECK(run.attempt() == 3);
  CHECK(newest_tiny(run) == TinyFound{10, 2});
}

}  // namespace
}  // namespace switchyard::test
