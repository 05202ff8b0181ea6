// Saves on storage that fails, is full, or hangs: nothing is acknowledged after a failed call,
// training goes on, what was committed stays (reliability: C1, C2, C5, C7, I4).
#include <sys/mount.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "checkpoint/run_entries.h"
#include "comm/collective_error.h"
#include "core/error.h"
#include "core/fault_injection.h"
#include "log_lines.h"
#include "save_job.h"
#include "support/catch.h"
#include "support/temporary_directory.h"

namespace switchyard::test {
namespace {

namespace fs = std::filesystem;

constexpr int kNumRanks = 4;
constexpr const char* kCommitted = "committed step ";
constexpr const char* kResumed = "resumed step ";

std::string not_saved(int64_t step) { return fmt::format("error step {} is NOT saved", step); }

// The passes of a rank in the save of step 1, as (number among all its passes, name).
std::vector<std::pair<size_t, std::string>> points_of_step_1(
    int rank, const SaveSettings& settings = SaveJob().settings) {
  const TemporaryDirectory directory;
  const LogLines log;
  set_faults("");
  run_save_job({.directory = directory.file("run"), .last_step = 2, .settings = settings});
  const std::vector<std::string> all = fault_points_passed(rank);
  std::vector<std::pair<size_t, std::string>> points;
  int step = -1;
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i] == "train.step") ++step;
    if (step == 1) points.emplace_back(i + 1, all[i]);
  }
  return points;
}

// Calls of Storage: "checkpoint.shard.sync", and those that fail after they were done, ".done".
bool is_call(const std::string& point) { return std::count(point.begin(), point.end(), '.') >= 2; }

void check_after_failed_call(const TemporaryDirectory& directory, const LogLines& log,
                             bool must_fail, bool is_run_directory_sync) {
  const std::vector<int64_t> said = log.numbers_after(kCommitted);
  const bool committed = std::count(said.begin(), said.end(), 1) > 0;
  CHECK(log.with(not_saved(1)).size() == (committed ? 0 : 1));
  if (must_fail) CHECK_FALSE(committed);
  // What failed to sync is never synced again: the run directory itself is given up.
  if (is_run_directory_sync && !committed)
    CHECK(log.with(not_saved(2)).size() == 1);
  else
    CHECK(said.back() == 2);
  // What failed after it was done may be there without having been said.
  const std::vector<int64_t> whole = whole_steps(directory.file("run"));
  CHECK(whole == committed_steps_in(directory.file("run")));
  CHECK(whole.size() >= std::min<size_t>(said.size(), 2));
  CHECK(whole.front() >= said.back());
  if (committed) CHECK(std::count(whole.begin(), whole.end(), 1) == 1);
  CHECK(leftovers(directory.file("run")).empty());
}

TEST_CASE("a call that fails on any rank is the end of that save, and of nothing else") {
  int cases = 0;
  for (int rank = 0; rank < kNumRanks; ++rank) {
    const auto points = points_of_step_1(rank);
    // Up to here a failure must undo the save; later ones concern LATEST and old checkpoints.
    size_t named = 0, durable = points.size();
    for (size_t i = 0; i < points.size(); ++i) {
      if (points[i].second == "checkpoint.staging.rename.done") named = i;
      if (points[i].second == "checkpoint.directory.sync_directory.done" && named > 0 &&
          durable == points.size())
        durable = i;
    }
    for (size_t i = 0; i < points.size(); ++i) {
      const auto& [n, name] = points[i];
      if (!is_call(name)) continue;
      for (const char* action : {"eio", "enospc"}) {
        const TemporaryDirectory directory;
        const LogLines log;
        INFO(action << " on rank " << rank << " at its point " << n << ", " << name);
        set_faults(fmt::format("rank={},point=*,nth={},action={}", rank, n, action));
        run_save_job({.directory = directory.file("run"), .last_step = 2});
        set_faults("");
        INFO(log.text());
        check_after_failed_call(
            directory, log, i <= durable,
            name.find("checkpoint.directory.sync_directory") != std::string::npos);
        if (std::string(action) == "enospc" &&
            (name.ends_with("shard.reserve") || name.ends_with("shard.write"))) {
          CHECK(log.with("bytes needed, ").size() == 1);
          CHECK(log.with("rank " + std::to_string(rank) + ": cannot").size() == 1);
        }
        ++cases;
      }
    }
  }
  WARN(cases << " failed calls: nothing acknowledged");
  CHECK(cases > 100);
}

// What a rank writes may be cut into several files: each is as good as the only one.
TEST_CASE("a call that fails in any of a rank's files is the end of that save") {
  SaveSettings settings = SaveJob().settings;
  settings.max_file_bytes = kSmallFileBytes;
  int cases = 0, files = 0;
  for (const int rank : {0, 2}) {
    for (const auto& [n, name] : points_of_step_1(rank, settings)) {
      if (!name.starts_with("checkpoint.shard.") || !is_call(name)) continue;
      files += name == "checkpoint.shard.sync";
      const TemporaryDirectory directory;
      const LogLines log;
      INFO("rank " << rank << " at its point " << n << ", " << name);
      set_faults(fmt::format("rank={},point=*,nth={},action=eio", rank, n));
      run_save_job({.directory = directory.file("run"), .last_step = 2, .settings = settings});
      set_faults("");
      INFO(log.text());
      check_after_failed_call(directory, log, true, false);
      ++cases;
    }
  }
  CHECK(files >= 2 * 3);
  CHECK(cases > 5 * files);
}

TEST_CASE("the third failure in a row is the end, on all ranks, and not the third at all") {
  const TemporaryDirectory directory;
  const LogLines log;
  const int rank = GENERATE(0, 2);
  std::atomic<int> ended = 0;
  SaveJob job{.directory = directory.file("run"), .last_step = 9};
  job.after_begin = [&](Checkpointer& checkpointer, StepState&, int64_t step) {
    try {
      checkpointer.finish();
    } catch (const CollectiveError& error) {
      if (error.code() == ExitCode::kStorage && step == 3) ++ended;
      throw;
    }
  };
  const auto rule = [&](const std::string& nth) {
    return fmt::format("rank={},point=checkpoint.shard.sync,nth={},action=eio;", rank, nth);
  };
  SECTION("in a row") {
    set_faults(rule("2+"));
    CHECK_THROWS_AS(run_save_job(job), Error);
    CHECK(ended == kNumRanks);
    CHECK(log.with("is NOT saved").size() == 3);
    CHECK(log.numbers_after(kCommitted) == std::vector<int64_t>{0});
    set_faults("");
    job.after_begin = nullptr;
    run_save_job(job);
    CHECK(log.numbers_after(kResumed) == std::vector<int64_t>{0});
    CHECK(whole_steps(directory.file("run")) == newest_and_loaded({9, 8}, {0}));
  }
  SECTION("not in a row") {
    set_faults(rule("2") + rule("3") + rule("5") + rule("6"));
    run_save_job(job);
    CHECK(log.numbers_after(kCommitted) == std::vector<int64_t>{0, 3, 6, 7, 8, 9});
  }
  set_faults("");
}

// Goes on training, in effect, while a save hangs: votes every millisecond. Counts the votes.
SaveJob job_that_goes_on(const TemporaryDirectory& directory, std::atomic<int>& votes) {
  SaveJob job{.directory = directory.file("run"), .last_step = 9};
  job.settings.timeout_s = 0.5;
  job.after_begin = [&](Checkpointer& checkpointer, StepState&, int64_t) {
    while (checkpointer.is_busy()) {
      ++votes;
      checkpointer.advance();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  };
  return job;
}

TEST_CASE("a write that never returns is reported, and training goes on") {
  const TemporaryDirectory directory;
  const LogLines log;
  std::atomic<int> votes = 0;
  SaveJob job = job_that_goes_on(directory, votes);
  job.last_step = 2;
  const int rank = GENERATE(0, 1, 3);
  // Two writes for each step: the header, the data.
  set_faults(fmt::format("rank={},point=checkpoint.shard.write,nth=4,action=hang", rank));
  run_save_job(job);
  set_faults("");
  INFO(log.text());
  CHECK(votes > 4 * 20);
  CHECK(log.numbers_after(kCommitted) == std::vector<int64_t>{0, 2});
  CHECK(log.with(not_saved(1)).size() == 1);
  CHECK(log.with(fmt::format("rank {}: {}", rank,
                             join(directory.file("run/.staging-000000001-1"),
                                  shard_name({.writer = rank})) +
                                 ": no answer for 0.5 s"))
            .size() == 1);
  CHECK(leftovers(directory.file("run")).empty());
}

TEST_CASE("a write that never returns is reported where a rank writes several files, too") {
  const TemporaryDirectory directory;
  const LogLines log;
  std::atomic<int> votes = 0;
  SaveJob job = job_that_goes_on(directory, votes);
  job.last_step = 1;
  job.settings.max_file_bytes = kSmallFileBytes;
  set_faults("rank=1,point=checkpoint.shard.write,nth=5,action=hang");
  run_save_job(job);
  set_faults("");
  INFO(log.text());
  CHECK(log.with("rank 1: " + directory.file("run/.staging-000000000-1/w00001-*.safetensors") +
                 ": no answer for 0.5 s")
            .size() == 1);
  CHECK(whole_steps(directory.file("run")) == std::vector<int64_t>{1});
}

TEST_CASE("storage that hangs for good is the end after three saves") {
  const TemporaryDirectory directory;
  const LogLines log;
  std::atomic<int> votes = 0;
  const SaveJob job = job_that_goes_on(directory, votes);
  const std::string point = GENERATE("rank=2,point=checkpoint.shard.sync,nth=2+",
                                     "rank=0,point=checkpoint.manifest.sync,nth=2",
                                     "rank=0,point=checkpoint.staging.make,nth=2");
  set_faults(point + ",action=hang");
  try {
    run_save_job(job);
    FAIL("it goes on without a net");
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::kStorage);
  }
  set_faults("");
  INFO(log.text());
  CHECK(log.with("is NOT saved").size() == 3);
  CHECK(log.with(": no answer for 0.5 s").size() >= 3);
  CHECK(is_whole(directory.file("run"), 0));
}

// A small file system of its own; nothing where this user may not mount.
class SmallDisk {
 public:
  explicit SmallDisk(const std::string& path, int64_t bytes) : path_(path) {
    fs::create_directory(path);
    const std::string size = fmt::format("size={}", bytes);
    is_there_ = mount("tmpfs", path.c_str(), "tmpfs", 0, size.c_str()) == 0;
    if (!is_there_) WARN("no small disk: " << std::generic_category().message(errno));
  }
  ~SmallDisk() {
    if (is_there_) umount2(path_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  bool is_there() const { return is_there_; }
  // Leaves so much free.
  void fill(int64_t free) const {
    const int64_t ballast = free_bytes(path_) - free;
    write_bytes(path_ + "/ballast",
                std::string(static_cast<size_t>(std::max(ballast, int64_t{0})), 'x'));
  }
  void empty() const { fs::remove(path_ + "/ballast"); }

 private:
  std::string path_;
  bool is_there_ = false;
};

TEST_CASE("a disk with room for a part of a checkpoint") {
  const TemporaryDirectory directory;
  int full = 0, fits = 0;
  for (int64_t free = 1; free <= 8; ++free) {
    const SmallDisk disk(directory.file("disk"), 4 << 20);
    if (!disk.is_there()) return;
    const LogLines log;
    const std::string path = directory.file("disk/run");
    SaveJob job{.directory = path, .last_step = 0, .columns = 4096};  // 256 KiB and 4 headers
    run_save_job(job);
    disk.fill(free * (64 << 10));
    job.last_step = 1;
    run_save_job(job);
    INFO(free << " x 64 KiB:\n" << log.text());
    CHECK(is_whole(path, 0));
    CHECK(leftovers(path).empty());
    if (log.numbers_after(kCommitted).back() == 1) {
      ++fits;
      CHECK(is_whole(path, 1));
    } else {
      ++full;
      CHECK(log.with(not_saved(1)).size() == 1);
      CHECK(log.with("error ").size() == 1);
      CHECK(log.with("bytes needed, ").size() == 1);
    }
    disk.empty();
    job.last_step = 2;
    run_save_job(job);
    CHECK(whole_steps(path).front() == 2);
  }
  CHECK(full >= 3);
  CHECK(fits >= 3);
}

TEST_CASE("the size of a checkpoint is known beforehand") {
  const TemporaryDirectory directory;
  const LogLines log;
  std::atomic<int64_t> predicted = 0;
  SaveJob job{.directory = directory.file("run"), .last_step = 0, .columns = 64 << 10};
  job.after_begin = [&](Checkpointer& checkpointer, StepState&, int64_t) {
    predicted = checkpointer.bytes();
  };
  set_faults("");
  run_save_job(job);
  int64_t actual = 0;
  for (const auto& file : fs::directory_iterator(directory.file("run/step-000000000")))
    actual += static_cast<int64_t>(file.file_size());
  CHECK(actual > 4 << 20);
  CHECK(static_cast<double>(predicted) == Approx(static_cast<double>(actual)).epsilon(0.01));
}

}  // namespace
}  // namespace switchyard::test
