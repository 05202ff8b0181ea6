// A saving job killed at every point that any of its ranks passes: nothing acknowledged is ever
// lost, and the next start goes on (reliability: A1, A5, A7, A8, A10, F9, I6).
#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "child_job.h"
#include "core/error.h"
#include "core/fault.h"
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

// Runs the job in a child; its lines are the log. That a commit is said is a point like others.
ChildEnd run(const SaveJob& job, const std::string& faults) {
  return run_in_child([&](const Say& say) {
    const LogLines log([&](const std::string& line) {
      say(line);
      if (line.find(kCommitted) != std::string::npos) fault_point("test.said");
    });
    set_faults(faults);
    try {
      run_save_job(job);
    } catch (const Error& error) {
      say(std::string("ended by ") + error.what());
      return static_cast<int>(error.code());
    }
    return 0;
  });
}

// The points that a rank of the job passes.
std::vector<std::string> points_of(const SaveJob& job, int rank) {
  return run_in_child([&](const Say& say) {
           const LogLines log([](const std::string& line) {
             if (line.find(kCommitted) != std::string::npos) fault_point("test.said");
           });
           set_faults("");
           run_save_job(job);
           for (const std::string& name : fault_points_passed(rank)) say(name);
           return 0;
         })
      .lines;
}

int64_t newest(const std::vector<int64_t>& steps, int64_t otherwise) {
  return steps.empty() ? otherwise : *std::max_element(steps.begin(), steps.end());
}

// What must be so after a job that had committed up to step `before` was killed, and after the next
// start, which takes steps up to 6. `killed`: the ends of the job.
void check_after_kill(const std::string& directory, int64_t before, const ChildEnd& killed) {
  INFO(killed.text());
  REQUIRE_FALSE(killed.hung);
  const int64_t acknowledged =
      std::max(before, newest(numbers_after(killed.lines, kCommitted), -1));
  if (acknowledged >= 1) CHECK(whole_steps(directory).size() >= 2);
  const ChildEnd next = run({.directory = directory, .last_step = 6}, "");
  INFO(next.text());
  CHECK(next.status == 0);
  const std::vector<int64_t> resumed = numbers_after(next.lines, kResumed);
  if (acknowledged >= 0) REQUIRE(resumed.size() == 1);
  if (!resumed.empty()) CHECK(resumed[0] >= acknowledged);
  CHECK(whole_steps(directory) == newest_and_loaded({6, 5}, resumed));
  CHECK(leftovers(directory).empty());
}

TEST_CASE("a job killed at any point of any rank loses nothing that was committed") {
  const TemporaryDirectory directory;
  const std::string start = directory.file("start");
  REQUIRE(run({.directory = start, .last_step = 3}, "").status == 0);
  // From the start of a job on a run with steps 2 and 3 to the end of the save of step 4, which
  // makes step 2 superfluous.
  size_t kills = 0;
  std::set<std::string> names;
  for (int rank = 0; rank < kNumRanks; ++rank) {
    const std::string traced = directory.file("traced");
    fs::copy(start, traced, fs::copy_options::recursive);
    const std::vector<std::string> points = points_of({.directory = traced, .last_step = 4}, rank);
    fs::remove_all(traced);
    names.insert(points.begin(), points.end());
    for (size_t n = 1; n <= points.size(); ++n) {
      // At once with all others; or alone, and the others a little later.
      for (const char* action : {"kill", "kill:0.01"}) {
        const std::string path = directory.file("run");
        fs::copy(start, path, fs::copy_options::recursive);
        ChildEnd end = run({.directory = path, .last_step = 4},
                           fmt::format("rank={},point=*,nth={},action={}", rank, n, action));
        INFO("rank " << rank << " at its point " << n << ", " << points[n - 1] << ": " << action);
        REQUIRE(end.killed);
        ++kills;
        if (kills % 8 == 0) {  // and the next start, too
          const ChildEnd again =
              run({.directory = path, .last_step = 5},
                  fmt::format("rank=0,point=*,nth={},action=kill", 1 + kills * 7 % 80));
          REQUIRE(again.killed);
          end.lines.insert(end.lines.end(), again.lines.begin(), again.lines.end());
        }
        check_after_kill(path, 3, end);
        fs::remove_all(path);
      }
    }
  }
  WARN(kills << " kills at " << names.size() << " named points on " << kNumRanks
             << " ranks: 0 lost");
  CHECK(names.size() >= 25);
  CHECK(kills >= 4 * 25);
}

TEST_CASE("a job killed anywhere between a rank's several files loses nothing either") {
  const TemporaryDirectory directory;
  const std::string start = directory.file("start");
  const auto job = [](const std::string& path, int64_t last_step) {
    SaveJob cut{.directory = path, .last_step = last_step};
    cut.settings.max_file_bytes = kSmallFileBytes;
    return cut;
  };
  REQUIRE(run(job(start, 3), "").status == 0);
  constexpr int kRank = 2;
  fs::copy(start, directory.file("traced"), fs::copy_options::recursive);
  const std::vector<std::string> points = points_of(job(directory.file("traced"), 4), kRank);
  CHECK(std::count(points.begin(), points.end(), "checkpoint.shard.close") >= 3);
  for (size_t n = 1; n <= points.size(); ++n) {
    const std::string path = directory.file("run");
    fs::copy(start, path, fs::copy_options::recursive);
    const ChildEnd end =
        run(job(path, 4), fmt::format("rank={},point=*,nth={},action=kill", kRank, n));
    INFO("at point " << n << ", " << points[n - 1]);
    REQUIRE(end.killed);
    check_after_kill(path, 3, end);
    fs::remove_all(path);
  }
}

TEST_CASE("a job killed in its first save is begun again") {
  const TemporaryDirectory directory;
  for (int rank = 0; rank < kNumRanks; ++rank) {
    const std::string traced = directory.file("traced");
    const std::vector<std::string> points = points_of({.directory = traced, .last_step = 0}, rank);
    fs::remove_all(traced);
    for (size_t n = 1; n <= points.size(); n += rank == 0 ? 3 : 2) {
      const std::string path = directory.file("run");
      const ChildEnd end = run({.directory = path, .last_step = 0},
                               fmt::format("rank={},point=*,nth={},action=kill", rank, n));
      INFO("rank " << rank << " at its point " << n << ", " << points[n - 1]);
      REQUIRE(end.killed);
      check_after_kill(path, -1, end);
      fs::remove_all(path);
    }
  }
}

TEST_CASE("what was said to be committed is there, however soon the job dies") {
  const TemporaryDirectory directory;
  for (int n = 1; n <= 200; ++n) {
    const std::string path = directory.file("run");
    const int save = 1 + n % 3;
    const ChildEnd end = run({.directory = path, .last_step = 2},
                             fmt::format("rank=0,point=test.said,nth={},action=kill", save));
    INFO(end.text());
    REQUIRE(end.killed);
    const std::vector<int64_t> said = numbers_after(end.lines, kCommitted);
    REQUIRE(newest(said, -1) == save - 1);
    REQUIRE(newest(whole_steps(path), -1) == save - 1);
    if (n % 20 == 0) check_after_kill(path, save - 1, end);
    fs::remove_all(path);
  }
}

TEST_CASE("a commit is said after the name of its directory is durable, and once") {
  const TemporaryDirectory directory;
  const ChildEnd end = run_in_child([&](const Say& say) {
    const LogLines log([](const std::string& line) {
      if (line.find(kCommitted) != std::string::npos) fault_point("test.said");
      if (line.find("saving") != std::string::npos) fault_point("test.requested");
    });
    set_faults("");
    run_save_job({.directory = directory.file("run"), .last_step = 0});
    for (const std::string& name : fault_points_passed(0)) say(name);
    return 0;
  });
  const auto place = [&](const std::string& name, size_t from) {
    const auto at =
        std::find(end.lines.begin() + static_cast<std::ptrdiff_t>(from), end.lines.end(), name);
    INFO(name << " in " << end.text());
    REQUIRE(at != end.lines.end());
    return static_cast<size_t>(at - end.lines.begin());
  };
  size_t at = 0;
  for (const char* name :
       {"test.requested", "checkpoint.staging.make.done", "checkpoint.shard.sync.done",
        "checkpoint.written", "checkpoint.gathered", "checkpoint.manifest.sync.done",
        "checkpoint.staging.sync_directory.done", "checkpoint.staging.rename.done",
        "checkpoint.directory.sync_directory.done", "test.said"})
    at = place(name, at) + 1;
  CHECK(std::count(end.lines.begin(), end.lines.end(), "test.said") == 1);
}

}  // namespace
}  // namespace switchyard::test
