// The watchdog between processes, with the end of the job put off: when it barks, and when not.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "backend/cpu/cpu_backend.h"
#include "comm/collective_error.h"
#include "support/catch.h"
#include "support/mpi_main.h"
#include "support/temporary_directory.h"
#include "train/postmortem.h"
#include "train/watchdog.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

void sleep_s(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// A group with a watchdog, on all ranks, in a directory of rank 0.
struct Watched {
  explicit Watched(const WatchdogConfig& config)
      : group(mpi_world().split(0, mpi_world().rank(), "dp")) {
    group->use(backend);
    path = directory.file("run");
    group->broadcast_host(path, 0);
    watchdog.emplace(config, WatchedRun{.directory = path, .num_layers = 2}, backend.marks(),
                     *group, [this](const HangReport& its) {
                       report = its;
                       barked = true;
                     });
  }
  bool barks_within(double seconds) const {
    for (double waited = 0; waited < seconds && !barked; waited += 0.01) sleep_s(0.01);
    return barked;
  }

  TemporaryDirectory directory;
  std::string path;
  CpuBackend backend{1};
  std::unique_ptr<Communicator> group;
  HangReport report;
  std::atomic<bool> barked = false;
  std::optional<Watchdog> watchdog;
};

constexpr double kTimeout = 0.4;

}  // namespace

TEST_CASE("work of one rank with marks is no hang of those that wait for it") {
  Watched job({.timeout = kTimeout});
  if (job.group->rank() == 0) {
    job.backend.marks().enter(RunPhase::kSave);
    for (int block = 0; block < 8; ++block) {
      sleep_s(kTimeout / 4);
      job.backend.marks().worked(1);
    }
  }
  job.group->barrier();
  CHECK(!job.barked);
  CHECK(std::filesystem::is_empty(job.path + "/postmortem"));
  job.group->barrier();
}

TEST_CASE(
    "a gap as long as ten times the longest of its phase is no hang; in another phase it is") {
  Watched job({.timeout = kTimeout, .gap_factor = 10});
  Progress& marks = job.backend.marks();
  if (job.group->rank() == 0) {
    marks.enter(RunPhase::kForward);
    sleep_s(0.2);
    marks.at_unit(1);
    sleep_s(1.2);  // of 2.0
    marks.at_unit(2);
  }
  job.group->barrier();
  CHECK(!job.barked);
  marks.enter(RunPhase::kOptimizer);
  CHECK(job.barks_within(kTimeout + 1.0));
  CHECK(job.report.diagnosis.culprits.size() == static_cast<size_t>(job.group->size()));
  sleep_s(0.2);
  job.group->barrier();
}

TEST_CASE("a rank that is alive and gets nowhere is found, and named by all") {
  Watched job({.timeout = kTimeout});
  Progress& marks = job.backend.marks();
  marks.begin_step(3);
  job.group->barrier();
  const int last = job.group->size() - 1;
  const bool is_stuck = job.group->rank() == last;
  if (is_stuck) {
    marks.enter(RunPhase::kBackward);
    marks.at_unit(2);
    CHECK(job.barks_within(4 * kTimeout));
    sleep_s(0.2);
  }
  job.group->barrier();  // the others wait here
  CHECK(job.barks_within(1));
  CHECK(job.report.rank == job.group->rank());
  CHECK(job.report.speaks == (job.group->rank() == 0));
  CHECK(job.report.diagnosis.culprits == std::vector<int>{last});
  CHECK_THAT(job.report.diagnosis.text,
             contains_text("runs without progress at step 3, backward, layer 1, in no collective"));
  if (last > 0)
    CHECK_THAT(job.report.diagnosis.text, contains_text("waits for it in dp all_gather_host #"));
  if (job.group->rank() == 0) {
    for (int rank = 0; rank <= last; ++rank) {
      const auto page = read_progress_page(page_file(job.report.directory, rank));
      REQUIRE(page);
      CHECK(page->head.ending == Ending::kHang);
      CHECK(std::filesystem::exists(report_file(job.report.directory, rank)));
    }
    const std::string story = tell_postmortem(job.path, 0, 20);
    CHECK_THAT(story, contains_text(fmt::format("culprit\n  rank {} on", last)));
    CHECK_THAT(story, contains_text("step 3, backward, layer 1"));
  }
  job.group->barrier();
}

TEST_CASE("how long a rank has waited for others is no measure of how long it may stand still") {
  Watched job({.timeout = kTimeout, .gap_factor = 10});
  Progress& marks = job.backend.marks();
  const bool is_slow = job.group->rank() == 0;
  marks.enter(RunPhase::kSave);
  for (int block = 0; block < 12 && is_slow; ++block) {
    sleep_s(0.1);
    marks.worked(1);
  }
  job.group->barrier();  // where the others have waited 1.2 s
  CHECK(!job.barked);
  if (is_slow) CHECK(job.barks_within(1 + kTimeout + 0.6));  // of gaps of 0.1 s, not of 1.2 s
  job.group->barrier();
  CHECK(job.barks_within(1));
  CHECK(job.report.diagnosis.culprits == std::vector<int>{0});
  job.group->barrier();
}

TEST_CASE("loading that stops between two blocks of a file is found") {
  Watched job({.timeout = kTimeout});
  Progress& marks = job.backend.marks();
  marks.enter(RunPhase::kLoad);
  marks.worked(16 << 20);
  const int last = job.group->size() - 1;
  if (job.group->rank() == last) CHECK(job.barks_within(4 * kTimeout));
  job.group->barrier();
  CHECK(job.barks_within(1));
  CHECK_THAT(job.report.diagnosis.text,
             contains_text("runs without progress at step 0, load, in no collective"));
  CHECK_THAT(tell_postmortem(job.path, 0, 50), contains_text("load: 16777216 bytes"));
  job.group->barrier();
}

TEST_CASE("a run directory that hangs does not keep a hang alive") {
  Watched job({.timeout = kTimeout});
  const std::string pipe = progress_file(job.path, job.group->rank()) + ".tmp";
  int made = mkfifo(pipe.c_str(), 0600);  // opening it waits for a reader
  while (made != 0 && errno == EEXIST) made = mkfifo(pipe.c_str(), 0600);  // being written
  REQUIRE(made == 0);
  job.group->barrier();
  CHECK(!job.barks_within(3 * kTimeout));
  CHECK(job.barks_within(3 * kTimeout));
  CHECK(job.report.diagnosis.text.empty());
  CHECK(!std::filesystem::exists(alarm_file(job.report.directory)));
  job.group->barrier();
  const int both_ends = open(pipe.c_str(), O_RDWR | O_NONBLOCK);  // lets everybody go
  job.group->barrier();
  job.watchdog.reset();
  job.group->barrier();
  close(both_ends);
}

TEST_CASE("an error of one rank keeps its page, an error of all does not") {
  Watched job({.timeout = 30});
  CHECK_THROWS_AS(job.watchdog->run([] { throw CollectiveError(ExitCode::kData, "all"); }),
                  CollectiveError);
  job.group->barrier();
  CHECK(std::filesystem::is_empty(job.path + "/postmortem"));
  job.group->barrier();
  const int last = job.group->size() - 1;
  if (job.group->rank() == last) {
    CHECK_THROWS_AS(job.watchdog->run([] { throw Error(ExitCode::kStorage, "disk \xff full"); }),
                    Error);
    const std::string story = tell_postmortem(job.path, 0, 5);
    CHECK_THAT(story, contains_text(fmt::format("rank {} on", last)));
    CHECK_THAT(story, contains_text("ended with error at step 0, start: disk"));
  }
  job.group->barrier();
}

TEST_CASE("pages of an attempt before this one are no news, and a directory without any says so") {
  Watched job({.timeout = 30});
  if (job.group->rank() == 0) {
    CHECK_THROWS_WITH(tell_postmortem(job.path, 0, 5), contains_text("no rank has left"));
    const ProgressHead me = job.backend.marks().head();
    CHECK(look_at_rank(job.path, me, job.group->size() - 1).is_known);
    ProgressHead other_job = me;
    other_job.job ^= 1;
    CHECK(!look_at_rank(job.path, other_job, job.group->size() - 1).is_known);
    CHECK(!look_at_rank(job.path, me, job.group->size()).is_known);
  }
  job.group->barrier();
}
