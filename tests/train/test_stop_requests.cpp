// What asks a run to stop or to save: signals, files, time; one decision of all ranks.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "core/error.h"
#include "support/catch.h"
#include "support/temporary_directory.h"
#include "train/stop_requests.h"
#include "train/stop_signals.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

using namespace std::chrono_literals;

// Ranks of a job that share a clock, each with its own signal.
struct Job {
  explicit Job(int num_ranks, StopSettings settings = {}) : signals(num_ranks, 0) {
    settings.run_directory = directory.file("");
    for (int rank = 0; rank < num_ranks; ++rank)
      ranks.emplace_back(
          settings, rank, [this] { return now; },
          [this, rank] { return signals[static_cast<size_t>(rank)]; });
  }

  // A border between two steps; all ranks decide alike.
  StopDecision border() {
    std::vector<double> sums;
    for (StopRequests& rank : ranks) {
      const std::vector<double> vote = rank.vote();
      sums.resize(vote.size());
      for (size_t i = 0; i < vote.size(); ++i) sums[i] += vote[i];
    }
    const StopDecision first = ranks[0].decide(sums);
    for (size_t rank = 1; rank < ranks.size(); ++rank) {
      const StopDecision other = ranks[rank].decide(sums);
      CHECK(other.stop == first.stop);
      CHECK(other.save == first.save);
      CHECK(other.requeue == first.requeue);
      CHECK(other.reason == first.reason);
    }
    return first;
  }

  void touch(const char* name) const { write_bytes(directory.file(name), ""); }
  bool exists(const char* name) const { return std::filesystem::exists(directory.file(name)); }

  TemporaryDirectory directory;
  double now = 1000;
  std::vector<int> signals;
  std::vector<StopRequests> ranks;
};

// Runs `work` in a child process that ends with code 0 when it returns.
template <class Work>
pid_t child(Work work) {
  const pid_t pid = fork();
  if (pid == 0) {
    work();
    _exit(0);
  }
  return pid;
}

int exit_code(pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void wait_for(const std::string& path) {
  for (int i = 0; i < 500 && !std::filesystem::exists(path); ++i) std::this_thread::sleep_for(10ms);
  REQUIRE(std::filesystem::exists(path));
}

}  // namespace

TEST_CASE("nothing asked: the run goes on") {
  Job job(3);
  const StopDecision decision = job.border();
  CHECK_FALSE(decision.stop);
  CHECK_FALSE(decision.save);
}

TEST_CASE("a signal to one rank stops all at the same border") {
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) {
    Job job(4);
    job.signals[2] = signal;
    const StopDecision decision = job.border();
    CHECK(decision.stop);
    CHECK(decision.requeue);
    CHECK(decision.reason == signal_name(signal) + " (to 1 rank)");
  }
}

TEST_CASE(
    "a STOP file ends the run for good and is gone; the same for a SAVE file, which goes on") {
  Job job(2);
  job.touch("STOP");
  StopDecision decision = job.border();
  CHECK(decision.stop);
  CHECK_FALSE(decision.requeue);
  CHECK_THAT(decision.reason, contains_text("/STOP"));
  CHECK(job.exists("STOP"));  // until the save that belongs to it is on the disk
  job.ranks[0].forget_stop_file();
  CHECK_FALSE(job.exists("STOP"));

  job.now += 1;
  job.touch("SAVE");
  decision = job.border();
  CHECK_FALSE(decision.stop);
  CHECK(decision.save);
  CHECK_FALSE(job.exists("SAVE"));
  job.now += 1;
  CHECK_FALSE(job.border().save);
}

TEST_CASE("saves by time are due an interval after the last save began") {
  Job job(2, {.save_interval_s = 60});
  job.now += 59;
  CHECK_FALSE(job.border().save);
  job.now += 2;
  CHECK(job.border().save);
  CHECK(job.border().save);  // none has begun
  for (StopRequests& rank : job.ranks) rank.saved();
  CHECK_FALSE(job.border().save);
  job.now += 60;
  CHECK(job.border().save);
}

TEST_CASE("files are looked at twice a second at most") {
  Job job(2);
  CHECK_FALSE(job.border().stop);
  job.touch("STOP");
  job.now += 0.4;
  CHECK_FALSE(job.border().stop);
  job.now += 0.2;
  CHECK(job.border().stop);
}

TEST_CASE("a SAVE file that cannot be removed is acted on once") {
  Job job(1);
  std::filesystem::create_directory(job.directory.file("SAVE"));
  job.touch("SAVE/full");  // a directory with something in it is not removed
  CHECK(job.border().save);
  job.now += 10;
  CHECK_FALSE(job.border().save);
  job.touch("STOP");
  job.now += 10;
  CHECK(job.border().stop);
}

TEST_CASE("the run stops a margin before its wall time and before the end of the SLURM job") {
  Job by_wall_time(2, {.started_at = 1000, .max_wall_time = 100, .stop_margin = 10});
  by_wall_time.now = 1089.9;
  CHECK_FALSE(by_wall_time.border().stop);
  by_wall_time.now = 1090;
  StopDecision decision = by_wall_time.border();
  CHECK(decision.stop);
  CHECK(decision.requeue);
  CHECK_THAT(decision.reason, contains_text("max_wall_time"));

  Job by_slurm(2, {.started_at = 1000, .stop_margin = 10, .slurm_job_end = 2000.0});
  by_slurm.now = 1989.9;
  CHECK_FALSE(by_slurm.border().stop);
  by_slurm.now = 1990;
  decision = by_slurm.border();
  CHECK(decision.stop);
  CHECK_THAT(decision.reason, contains_text("SLURM"));
}

TEST_CASE("the clock of rank 0 alone counts") {
  StopRequests late(
      {.max_wall_time = 1}, 1, [] { return 5.0; }, [] { return 0; });
  for (const double vote : late.vote()) CHECK(vote == 0);
}

TEST_CASE("advice on stopping, where mpirun would not leave the time to save") {
  const StopSettings settings = {.run_directory = "runs/a", .stop_margin = 20};
  CHECK(advice_on_stopping({}, settings).empty());
  CHECK(advice_on_stopping({.mpirun_kill_delay_s = 30.0}, settings).empty());
  const std::string advice = advice_on_stopping({.mpirun_kill_delay_s = 1.0}, settings);
  CHECK_THAT(advice, contains_text("about 2 s later"));
  CHECK_THAT(advice, contains_text("runs/a/STOP"));
}

TEST_CASE("a first signal is remembered, the second ends the process within two seconds") {
  for (const int second : {SIGUSR1, SIGTERM, SIGINT}) {
    TemporaryDirectory directory;
    const pid_t pid = child([&] {
      const StopSignals signals(
          [&](const std::string& name) { write_bytes(directory.file("last_words"), name); });
      write_bytes(directory.file("ready"), "");
      while (signals.first() == 0) std::this_thread::sleep_for(1ms);
      write_bytes(directory.file("saw"), signal_name(signals.first()));
      std::this_thread::sleep_for(60s);
    });
    wait_for(directory.file("ready"));
    kill(pid, SIGTERM);
    kill(pid, SIGUSR1);  // the same wish on another way
    wait_for(directory.file("saw"));
    std::this_thread::sleep_for(400ms);
    CHECK(waitpid(pid, nullptr, WNOHANG) == 0);
    const auto sent_at = std::chrono::steady_clock::now();
    kill(pid, second);
    CHECK(exit_code(pid) == static_cast<int>(ExitCode::kStopped));
    CHECK(std::chrono::steady_clock::now() - sent_at < 2s);
    CHECK(read_bytes(directory.file("last_words")) == signal_name(second));
  }
}

TEST_CASE("the second signal ends the process even if its last words hang") {
  TemporaryDirectory directory;
  const pid_t pid = child([&] {
    const StopSignals signals([](const std::string&) { std::this_thread::sleep_for(60s); });
    write_bytes(directory.file("ready"), "");
    std::this_thread::sleep_for(60s);
  });
  wait_for(directory.file("ready"));
  kill(pid, SIGUSR1);
  std::this_thread::sleep_for(400ms);
  const auto sent_at = std::chrono::steady_clock::now();
  kill(pid, SIGUSR1);
  CHECK(exit_code(pid) == 128 + SIGALRM);
  CHECK(std::chrono::steady_clock::now() - sent_at < 2s);
}

TEST_CASE("after the run SIGUSR1 does nothing, and SIGTERM ends the process as it always does") {
  const auto after_the_run = [](int signal) {
    return exit_code(child([=] {
      {
        const StopSignals signals([](const std::string&) {});
      }
      raise(signal);
    }));
  };
  CHECK(after_the_run(SIGUSR1) == 0);
  CHECK(after_the_run(SIGTERM) == 128 + SIGTERM);
}
