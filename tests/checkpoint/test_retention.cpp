// Which checkpoints are kept, and what removing them leaves alone.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/retention.h"
#include "checkpoint/run_directory.h"
#include "checkpoint/run_entries.h"
#include "support/catch.h"
#include "support/temporary_directory.h"
#include "tiny_save.h"

namespace switchyard::test {
namespace {

namespace fs = std::filesystem;

constexpr RunDirectory::Options kQuick = {.lock_wait_s = 0};

struct Run {
  TemporaryDirectory directory;
  Storage storage;
  RunDirectory run{storage, directory.file("run"), kQuick};

  explicit Run(const std::vector<int64_t>& steps) {
    for (const int64_t step : steps) save_tiny(storage, run, step, static_cast<int>(step));
  }

  void damage(int64_t step) const {
    fs::resize_file(join(run.step_directory(step), "w00002.safetensors"), 100);
  }
  std::vector<int64_t> kept(const Retention& retention, int64_t loaded_step = -1) {
    run.remove_old(retention, loaded_step);
    for (const RunEntry& entry : entries_of(run.path()))
      CHECK(entry.kind != RunEntryKind::kDeleting);
    return run.committed_steps();
  }
};

using Steps = std::vector<int64_t>;

TEST_CASE("the last few are kept, and every so many steps for ever") {
  Run job({0, 10, 20, 30, 40, 50});
  SECTION("the last") { CHECK(job.kept({.keep_last = 3}) == Steps{50, 40, 30}); }
  SECTION("never fewer than two") { CHECK(job.kept({.keep_last = 0}) == Steps{50, 40}); }
  SECTION("for ever") {
    CHECK(job.kept({.keep_last = 2, .keep_every = 20}) == Steps{50, 40, 20, 0});
  }
  SECTION("all") { CHECK(job.kept({.keep_last = 6}) == Steps{50, 40, 30, 20, 10, 0}); }
  SECTION("pinned") {
    write_bytes(join(job.run.step_directory(10), kPinFile), "");
    CHECK(job.kept({.keep_last = 2}) == Steps{50, 40, 10});
  }
}

TEST_CASE("what the job was loaded from stays") {
  Run job({0, 10, 20, 30});
  CHECK(job.kept({.keep_last = 2}, 0) == Steps{30, 20, 0});
  CHECK(job.kept({.keep_last = 2}) == Steps{30, 20});
}

TEST_CASE("what is damaged does not count as kept") {
  Run job({0, 10, 20, 30, 40});
  job.damage(40);
  job.damage(20);
  CHECK(job.kept({.keep_last = 2}) == Steps{40, 30, 20, 10});
  save_tiny(job.storage, job.run, 50, 5);
  CHECK(job.kept({.keep_last = 2}) == Steps{50, 40, 30});
  save_tiny(job.storage, job.run, 60, 6);
  CHECK(job.kept({.keep_last = 2}) == Steps{60, 50});
}

TEST_CASE("only this run's checkpoints are removed, and no link is followed") {
  Run other({0});
  Run job({0, 10, 20, 30});
  fs::remove_all(job.run.step_directory(0));
  fs::copy(other.run.step_directory(0), job.run.step_directory(0));
  fs::create_directory(job.run.step_directory(5));  // whose, nobody knows
  fs::create_directory_symlink(other.run.step_directory(0), job.run.step_directory(15));
  fs::create_directory_symlink(other.run.path(), job.directory.file("run/.deleting-000000001-1"));
  fs::create_directory_symlink(other.run.path(), join(job.run.step_directory(10), "link"));
  write_bytes(other.directory.file("precious"), "x");
  fs::create_symlink(other.directory.file("precious"), join(job.run.step_directory(10), "file"));
  fs::create_directory_symlink(other.run.path(), job.directory.file("run/.staging-000000001-1"));
  CHECK(job.kept({.keep_last = 2}) == Steps{30, 20, 5, 0});
  CHECK(fs::is_symlink(job.run.step_directory(15)));
  CHECK(newest_tiny(other.run) == TinyFound{0, 0});
  CHECK(exists(other.directory.file("precious")));
  CHECK(exists(other.directory.file("run/run.json")));
}

TEST_CASE("a superseded checkpoint goes once the run has got past it") {
  Run job({0, 10, 20, 30});
  job.run.go_back_to(10);
  CHECK(job.kept({.keep_last = 2}) == Steps{10, 0});
  save_tiny(job.storage, job.run, 20, 21);
  save_tiny(job.storage, job.run, 25, 25);
  CHECK(job.kept({.keep_last = 2}) == Steps{25, 20});
  const auto superseded = entries_of(job.run.path(), RunEntryKind::kSuperseded);
  REQUIRE(superseded.size() == 1);
  CHECK(superseded[0].step == 30);
}

TEST_CASE("what would go can be asked without touching a running job") {
  Run job({0, 10, 20});
  const auto expired =
      expired_entries(job.run.path(), job.run.id_of(0).run_id, {.keep_last = 2}, -1);
  CHECK(expired == std::vector<RunEntry>{{.kind = RunEntryKind::kStep, .step = 0}});
  CHECK(job.run.committed_steps() == Steps{20, 10, 0});
}

}  // namespace
}  // namespace switchyard::test
