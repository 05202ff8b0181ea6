// What is said of a run directory, verification, and what goes when it is tidied up.
#include <algorithm>
#include <filesystem>

#include "checkpoint/checksum.h"
#include "checkpoint/latest_file.h"
#include "checkpoint/run_directory.h"
#include "checkpoint/run_entries.h"
#include "checkpoint/tiny_save.h"
#include "core/error.h"
#include "inspect/garbage.h"
#include "inspect/run_report.h"
#include "inspect/step_report.h"
#include "inspect/verification.h"
#include "support/catch.h"
#include "support/temporary_directory.h"

namespace switchyard::test {
namespace {

namespace fs = std::filesystem;

// A run of two attempts: the second went back behind step 40 and was killed in a save.
class MadeRun {
 public:
  MadeRun() {
    RunDirectory first(storage, path(), {.lock_wait_s = 0});
    for (const int64_t step : {0, 10, 20, 30, 40}) save_tiny(storage, first, step, 1);
  }
  void go_on() {
    RunDirectory second(storage, path(), {.lock_wait_s = 0});
    second.go_back_to(30);
    save_tiny(storage, second, 50, 2);
    write_tiny_files(storage, second, 60, 3);
  }

  std::string path() const { return directory_.file("run"); }
  std::string step(int64_t step) const {
    return join(path(), name_of({.kind = RunEntryKind::kStep, .step = step}));
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path()))
      names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  Storage storage;

 private:
  TemporaryDirectory directory_;
};

void flip_byte(const std::string& path, size_t from_end) {
  std::string bytes = read_bytes(path);
  bytes[bytes.size() - 1 - from_end] ^= 1;
  write_bytes(path, bytes);
}

std::vector<std::string> names_of(const std::vector<RunItem>& items) {
  std::vector<std::string> names;
  for (const RunItem& item : items) names.push_back(name_of(item.entry));
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

TEST_CASE("the report of a run has its checkpoints, what is left over and what is wrong") {
  MadeRun run;
  run.go_on();
  write_bytes(join(run.step(0), kPinFile), "");
  flip_byte(join(run.step(10), kManifestFile), 9);
  fs::resize_file(join(run.step(20), "w00002.safetensors"), 100);
  const std::vector<std::string> before = run.names();
  const RunContents contents = contents_of_run(run.path());
  CHECK(contents.items.size() == 7);
  CHECK(contents.latest == 50);
  CHECK_FALSE(contents.at_work.has_value());
  const std::string text = run_text(contents);
  for (const char* part :
       {"2 attempts", "valid, LATEST", "valid, superseded", "valid, PINNED", ".staging-000000060-2",
        "was being written when its job ended", "attempt 2 left no record",
        "step-000000010/manifest.json", "w00002.safetensors: 100 bytes found"})
    CHECK_THAT(text, contains_text(part));
  CHECK(std::count(text.begin(), text.end(), '\n') < 30);
  CHECK(run.names() == before);  // nothing was written
}

TEST_CASE("LATEST is said to be wrong where it is, and what it names") {
  MadeRun run;
  const std::string path = join(run.path(), kLatestFile), right = read_bytes(path);
  const auto said = [&] {
    const RunContents contents = contents_of_run(run.path());
    const std::string text = run_text(contents);
    CHECK((text.find(latest_text(contents)) != std::string::npos));
    CHECK((text.find("(no job goes by it): ") != std::string::npos) ==
          !latest_text(contents).empty());
    return latest_text(contents);
  };
  CHECK(said().empty());
  const std::string manifest = join(run.step(40), kManifestFile), bytes = read_bytes(manifest);
  flip_byte(manifest, 500);
  CHECK_THAT(said(),
             contains_text("LATEST does not match: manifest_sha256 " + sha256(bytes) +
                           ", but that of " + manifest + " is " + sha256(read_bytes(manifest))));
  fs::remove(manifest);
  CHECK_THAT(said(), contains_text(manifest + ": the file is missing"));
  write_bytes(manifest, bytes);
  CHECK(said().empty());
  write_bytes(path, to_json(Latest{.step = 40, .directory = "step-000000040"}));
  CHECK_THAT(said(), contains_text("no manifest_sha256 (earlier versions wrote none)"));
  CHECK(contents_of_run(run.path()).latest == 40);
  write_bytes(path, right.substr(0, 30));
  CHECK_THAT(said(), contains_text("LATEST: "));
  CHECK_FALSE(contents_of_run(run.path()).latest.has_value());
  fs::remove(path);  // its writing may have failed, which is no harm
  CHECK(said().empty());
  write_bytes(path, right);
  fs::remove_all(run.step(40));
  CHECK_THAT(said(), contains_text("LATEST names step-000000040, which is not there"));
}

TEST_CASE("a job at work is told, and nothing waits for it") {
  MadeRun run;
  RunDirectory job(run.storage, run.path(), {.lock_wait_s = 0});
  write_tiny_files(run.storage, job, 50, 2);
  const RunContents contents = contents_of_run(run.path());
  const std::string text = run_text(contents);
  CHECK_THAT(text, contains_text(fmt::format("at work: process {} on", getpid())));
  CHECK_THAT(text, contains_text(" bytes, being written"));
  // What it writes is not garbage; what it would remove, is.
  CHECK(names_of(garbage_of(contents, {.keep_last = 3})) ==
        std::vector<std::string>{"step-000000000", "step-000000010"});
  CHECK_THROWS_WITH(collect_garbage(run.storage, run.path(), {.keep_last = 3}),
                    contains_text("only one job can work"));
  CHECK(exists(join(run.path(), ".staging-000000050-2")));
  CHECK(exists(run.step(0)));
}

TEST_CASE("tidying up removes what it said before, no more, and is no attempt") {
  for (const int64_t keep_every : {0, 20}) {
    MadeRun run;
    run.go_on();
    write_bytes(join(run.step(0), kPinFile), "");
    const Retention retention{.keep_last = 2, .keep_every = keep_every};
    const std::vector<RunItem> said = garbage_of(contents_of_run(run.path()), retention);
    CHECK(names_of(said) ==
          (keep_every == 0
               ? std::vector<std::string>{".staging-000000060-2", ".superseded-000000040-2",
                                          "step-000000010", "step-000000020"}
               : std::vector<std::string>{".staging-000000060-2", ".superseded-000000040-2",
                                          "step-000000010"}));
    int64_t bytes = 0, freed = bytes_in(run.path());
    for (const RunItem& item : said) bytes += item.bytes;
    std::vector<std::string> expected = run.names();
    for (const std::string& name : names_of(said)) std::erase(expected, name);
    CHECK(names_of(collect_garbage(run.storage, run.path(), retention)) == names_of(said));
    CHECK(run.names() == expected);
    freed -= bytes_in(run.path());
    CHECK(freed == bytes);
    CHECK(bytes > 0);
    CHECK(contents_of_run(run.path()).identity->attempts == 2);
    CHECK(garbage_of(contents_of_run(run.path()), retention).empty());
  }
}

TEST_CASE("what a training job would remove is what is said") {
  MadeRun run;
  const Retention retention{.keep_last = 2};
  const std::vector<RunItem> said = garbage_of(contents_of_run(run.path()), retention);
  std::vector<std::string> expected = run.names();
  for (const std::string& name : names_of(said)) std::erase(expected, name);
  RunDirectory job(run.storage, run.path(), {.lock_wait_s = 0});
  job.remove_old(retention, -1);
  CHECK(run.names() == expected);
  CHECK(said.size() == 3);
}

TEST_CASE("what to keep is what the run's configuration says") {
  MadeRun run;
  CHECK_THROWS_WITH(retention_of_run(run.path()), contains_text("config.json"));
  write_bytes(join(run.path(), "config.json"),
              R"({"checkpoint": {"keep_last": 5, "keep_every": 100}})");
  const Retention retention = retention_of_run(run.path());
  CHECK(retention.keep_last == 5);
  CHECK(retention.keep_every == 100);
  write_bytes(join(run.path(), "config.json"), "{}");
  CHECK_THROWS_WITH(retention_of_run(run.path()), contains_text("--keep-last"));
}

TEST_CASE("verification finds any flipped byte of data, and names it") {
  MadeRun run;
  const VerifiedCheckpoint right = verify_checkpoint(run.step(10));
  CHECK(right.code == ExitCode::kOk);
  CHECK(right.bytes > 0);
  CHECK_THAT(to_text(right), contains_text("right, "));
  for (const char* file : {"w00000.safetensors", "w00003.safetensors"})
    for (size_t byte = 0; byte < 24; ++byte) {  // the last tensor of the file: 6 elements
      const std::string path = join(run.step(10), file);
      flip_byte(path, byte);
      const VerifiedCheckpoint wrong = verify_checkpoint(run.step(10));
      CHECK(wrong.code == ExitCode::kData);
      CHECK_FALSE(wrong.is_gone);
      for (const std::string& part :
           {path, std::string("tensor \"exp_avg/weight\""), std::string("block 0")})
        CHECK_THAT(wrong.problem, contains_text(part));
      flip_byte(path, byte);
    }
  CHECK(verify_checkpoint(run.step(10)).code == ExitCode::kOk);
}

TEST_CASE("verification finds what is missing, cut off or of another place") {
  MadeRun run;
  fs::remove(join(run.step(0), "w00001.safetensors"));
  fs::resize_file(join(run.step(10), "w00001.safetensors"), 64);
  flip_byte(join(run.step(20), kManifestFile), 9);
  fs::remove_all(run.step(30));
  fs::copy(run.step(40), run.step(30));
  std::vector<int64_t> wrong;
  for (const RunItem& item : contents_of_run(run.path()).items)
    if (verify_checkpoint(item).code == ExitCode::kData) wrong.push_back(item.entry.step);
  CHECK(wrong == std::vector<int64_t>{30, 20, 10, 0});
  CHECK(verify_checkpoint(run.step(50)).code == ExitCode::kData);  // there is none
}

TEST_CASE("the report of a checkpoint") {
  MadeRun run;
  const std::string text = step_text(run.step(20), true);
  for (const char* part : {"step 20, by attempt 1", "  exp_avg  f32          1        24     96\n",
                           "  all                   2        48    192\n", "w00003.safetensors",
                           "content: 1", "exp_avg/weight  f32    (8, 3)", "files: 4 of 4 writers, ",
                           "code: version test, revision unknown, "})
    CHECK_THAT(text, contains_text(part));
  CHECK_THAT(step_text(run.step(20), false), !contains_text("(8, 3)"));
  fs::remove(join(run.step(20), "w00001.safetensors"));
  CHECK_THAT(step_text(run.step(20), false), contains_text("NOT VALID: "));
  CHECK(is_checkpoint(run.step(20)));
  CHECK_FALSE(is_checkpoint(run.path()));
  fs::remove(join(run.step(20), kManifestFile));
  CHECK(is_checkpoint(run.step(20)));
  CHECK_THROWS_WITH(step_text(run.step(20), false), contains_text("manifest.json"));
}

TEST_CASE("what is no run is refused") {
  const TemporaryDirectory directory;
  CHECK_THROWS_WITH(contents_of_run(directory.file("none")), contains_text("no such directory"));
  fs::create_directory(directory.file("empty"));
  CHECK_THROWS_WITH(contents_of_run(directory.file("empty")), contains_text("neither a run"));
}

}  // namespace switchyard::test
