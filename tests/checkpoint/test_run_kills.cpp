// A job killed at every point of what it does to a run directory, each in a process of its own.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/run_directory.h"
#include "checkpoint/run_entries.h"
#include "child_process.h"
#include "core/fault_injection.h"
#include "support/catch.h"
#include "support/temporary_directory.h"
#include "tiny_save.h"

namespace switchyard::test {
namespace {

constexpr RunDirectory::Options kQuick = {.lock_wait_s = 5};

// A job: prepares, then does what it may be killed in. `committed(step)` is what it tells others.
struct Job {
  std::function<void(Storage&, RunDirectory&)> prepare;
  std::function<void(Storage&, RunDirectory&, const std::function<void(int)>& committed)> act;
};

void run_job(const Job& job, const std::string& path, const std::string& faults, int output) {
  set_faults("");
  Storage storage;
  RunDirectory run(storage, path, kQuick);
  job.prepare(storage, run);
  set_faults(faults);
  job.act(storage, run, [&](int step) {
    const auto byte = static_cast<unsigned char>(step);
    if (write(output, &byte, 1) != 1) _exit(1);
  });
}

std::vector<std::string> points_of(const Job& job) {
  const TemporaryDirectory directory;
  run_job(job, directory.file("run"), "", open("/dev/null", O_WRONLY));
  return fault_points_passed();
}

// Kills the job at its n-th point and lets `check` see what the next job finds, given the last step
// that was told as committed (-1: none). Returns the names of the points.
std::set<std::string> kill_everywhere(const Job& job,
                                      const std::function<void(RunDirectory&, int)>& check) {
  const std::vector<std::string> points = points_of(job);
  for (size_t n = 1; n <= points.size(); ++n) {
    const TemporaryDirectory directory;
    ChildProcess child([&](int output) {
      run_job(job, directory.file("run"), fmt::format("point=*,nth={},action=kill", n), output);
    });
    int committed = -1;
    for (int step = child.read(); step >= 0; step = child.read()) committed = step;
    const int status = child.wait();
    INFO("killed at " << n << ", " << points[n - 1]);
    REQUIRE(WIFSIGNALED(status));
    set_faults("");
    Storage storage;
    RunDirectory run(storage, directory.file("run"), kQuick);
    check(run, committed);
    // It also goes on from there, to the same step (A7).
    CHECK_NOTHROW(save_tiny(storage, run, 40, 44));
    CHECK(newest_tiny(run) == TinyFound{40, 44});
  }
  return {points.begin(), points.end()};
}

TEST_CASE("a save killed at any point harms no checkpoint") {
  const Job job{
      .prepare = [](Storage& storage, RunDirectory& run) { save_tiny(storage, run, 10, 1); },
      .act =
          [](Storage& storage, RunDirectory& run, const auto& committed) {
            save_tiny(storage, run, 20, 2);
            committed(20);
            save_tiny(storage, run, 20, 3);  // replaces it
            run.remove_old({.keep_last = 2}, -1);
            save_tiny(storage, run, 30, 4);
            committed(30);
            run.remove_old({.keep_last = 2}, -1);
          }};
  const auto names = kill_everywhere(job, [](RunDirectory& run, int committed) {
    CHECK(newest_tiny(run).step >= committed);
    for (const int64_t step : run.committed_steps()) CHECK(read_tiny(run, step).has_value());
    CHECK(run.committed_steps().size() >= (committed < 20 ? 1 : 2));
    CHECK(run.attempt() == 2);
  });
  CHECK(names.size() >= 25);
}

TEST_CASE("a first start killed at any point is begun again") {
  const TemporaryDirectory directory;
  const auto start = [&](const std::string& path, const std::string& faults) {
    set_faults(faults);
    Storage storage;
    RunDirectory run(storage, path, kQuick);
    save_tiny(storage, run, 0, 1);
  };
  start(directory.file("all"), "");
  const std::vector<std::string> points = fault_points_passed();
  for (size_t n = 1; n <= points.size(); ++n) {
    INFO("killed at " << n << ", " << points[n - 1]);
    const std::string path = directory.file(fmt::format("run{}", n));
    ChildProcess child([&](int) { start(path, fmt::format("point=*,nth={},action=kill", n)); });
    REQUIRE(WIFSIGNALED(child.wait()));
    set_faults("");
    Storage storage;
    RunDirectory run(storage, path, kQuick);
    CHECK(run.is_new() == run.committed_steps().empty());
    save_tiny(storage, run, 0, 1);
    CHECK(newest_tiny(run) == TinyFound{0, 1});
  }
}

TEST_CASE("removing old checkpoints, killed at any point, leaves at least two that are whole") {
  const Job job{.prepare =
                    [](Storage& storage, RunDirectory& run) {
                      for (const int step : {0, 5, 10, 15, 20}) save_tiny(storage, run, step, step);
                      run.go_back_to(10);
                      save_tiny(storage, run, 15, 3);
                    },
                .act = [](Storage&, RunDirectory& run,
                          const auto&) { run.remove_old({.keep_last = 1}, 10); }};
  const auto names = kill_everywhere(job, [](RunDirectory& run, int) {
    const std::vector<int64_t> steps = run.committed_steps();
    REQUIRE(steps.size() >= 2);
    CHECK(steps[0] == 15);
    CHECK(steps[1] == 10);
    for (const int64_t step : steps) CHECK(read_tiny(run, step).has_value());
  });
  CHECK(names.count("checkpoint.deleting.remove") == 1);
}

TEST_CASE("going back, killed at any point, ends before or after it") {
  const Job job{.prepare =
                    [](Storage& storage, RunDirectory& run) {
                      for (const int step : {0, 10, 20, 30}) save_tiny(storage, run, step, step);
                    },
                .act =
                    [](Storage&, RunDirectory& run, const auto& committed) {
                      run.go_back_to(10);
                      committed(10);
                    }};
  kill_everywhere(job, [](RunDirectory& run, int committed) {
    const TinyFound found = newest_tiny(run);
    CHECK(found.content == found.step);
    CHECK(found.step >= 10);
    if (committed == 10) CHECK(found.step == 10);
  });
}

}  // namespace
}  // namespace switchyard::test
