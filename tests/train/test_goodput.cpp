// The account of wall time: every second in one bucket, through any number of attempts.
#include <numeric>
#include <random>

#include "support/catch.h"
#include "support/temporary_directory.h"
#include "train/goodput.h"

using namespace switchyard;
using namespace switchyard::test;
using Catch::Matchers::WithinAbs;

namespace {

// A run whose clock the test turns.
struct Run {
  Goodput attempt() {
    return Goodput(directory.file("goodput.json"), [this] { return now; });
  }
  TemporaryDirectory directory;
  double now = 1e9;
};

double sum(const GoodputReport& report) {
  return std::accumulate(report.seconds.begin(), report.seconds.end(), 0.0);
}

}  // namespace

TEST_CASE("an attempt: its start, steps, data, saves, validation") {
  Run run;
  Goodput goodput = run.attempt();
  run.now += 5;
  {
    const Goodput::Guard loading(&goodput, TimeBucket::kLoad);
    run.now += 3;
  }
  run.now += 2;
  goodput.begin_steps(0);
  for (int64_t step = 1; step <= 10; ++step) {
    run.now += 4;
    goodput.finish_step(step, 0.5);
  }
  {
    const Goodput::Guard saving(&goodput, TimeBucket::kCheckpoint);
    run.now += 1;
  }
  run.now += 6;  // validation
  const GoodputReport report = goodput.report();
  CHECK_THAT(report[TimeBucket::kInit], WithinAbs(7, 1e-6));
  CHECK_THAT(report[TimeBucket::kLoad], WithinAbs(3, 1e-6));
  CHECK_THAT(report[TimeBucket::kData], WithinAbs(5, 1e-6));
  CHECK_THAT(report[TimeBucket::kCheckpoint], WithinAbs(1, 1e-6));
  CHECK_THAT(report[TimeBucket::kProductive], WithinAbs(41, 1e-6));
  CHECK_THAT(report.wall_s, WithinAbs(57, 1e-6));
  CHECK_THAT(report.ettr(), WithinAbs(41.0 / 57, 1e-9));
  CHECK_THAT(to_text(report), contains_text("productive 41.0 s, init 7.0 s, data 5.0 s"));
  CHECK_THAT(to_text(report), !contains_text("hang"));
  CHECK(to_json(report)["seconds"]["load"] == 3.0);
}

TEST_CASE("steps that were lost are recomputed, and the time between attempts is down") {
  Run run;
  {
    Goodput goodput = run.attempt();
    goodput.begin_steps(0);
    for (int64_t step = 1; step <= 8; ++step) {
      run.now += 10;
      goodput.finish_step(step, 0);
    }
    run.now += 3;  // killed in step 9
  }
  run.now += 100;
  Goodput goodput = run.attempt();
  run.now += 1;
  goodput.resume(5, 8);
  goodput.begin_steps(5);
  for (int64_t step = 6; step <= 10; ++step) {
    run.now += 10;
    goodput.finish_step(step, 0);
  }
  const GoodputReport report = goodput.report();
  CHECK(report.attempts == 2);
  CHECK_THAT(report[TimeBucket::kProductive], WithinAbs(100, 1e-6));
  CHECK_THAT(report[TimeBucket::kRecompute], WithinAbs(30, 1e-6));
  CHECK_THAT(report[TimeBucket::kDown], WithinAbs(103, 1e-6));
  CHECK_THAT(report[TimeBucket::kInit], WithinAbs(1, 1e-6));
  CHECK_THAT(report.wall_s, WithinAbs(234, 1e-6));
}

TEST_CASE("a hang: the time since the last sign of progress") {
  Run run;
  Goodput goodput = run.attempt();
  goodput.begin_steps(0);
  run.now += 20;
  goodput.finish_step(1, 0);
  run.now += 35;
  goodput.end_in_hang(30);
  const GoodputReport report = goodput.report();
  CHECK_THAT(report[TimeBucket::kHang], WithinAbs(30, 1e-6));
  CHECK_THAT(report[TimeBucket::kProductive], WithinAbs(25, 1e-6));
}

TEST_CASE("a bucket never holds less than nothing") {
  Run run;
  Goodput goodput = run.attempt();
  goodput.begin_steps(0);
  run.now += 2;
  goodput.finish_step(1, 50);  // more than there was
  run.now -= 100;              // somebody sets the clock
  goodput.finish_step(2, 0);
  run.now += 103;
  goodput.end_in_hang(500);
  const GoodputReport report = goodput.report();
  CHECK_THAT(report[TimeBucket::kData], WithinAbs(2, 1e-6));
  CHECK_THAT(report[TimeBucket::kHang], WithinAbs(3, 1e-6));
  CHECK_THAT(report[TimeBucket::kProductive], WithinAbs(0, 1e-6));

  run.now -= 1000;  // and again, between two attempts
  CHECK(run.attempt().report()[TimeBucket::kDown] == 0);
  Goodput other = run.attempt();
  run.now -= 10;
  CHECK(other.report()[TimeBucket::kInit] >= 0);
}

TEST_CASE("whatever happens, the buckets add up to the wall time") {
  Run run;
  std::mt19937 random(7);
  const auto roll = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  const double started_at = run.now;
  for (int attempt = 0; attempt < 30; ++attempt) {
    Goodput goodput = run.attempt();
    int64_t step = roll(20);
    goodput.resume(step, step + roll(5));
    run.now += 0.1 * roll(50);
    goodput.begin_steps(step);
    for (int event = roll(60); event > 0; --event) {
      run.now += 0.1 * roll(100);
      if (roll(5) == 0) {
        const Goodput::Guard guard(&goodput, TimeBucket::kCheckpoint);
        run.now += 0.1 * roll(10);
      }
      if (roll(40) == 0) run.now -= 3;  // somebody sets the clock
      goodput.finish_step(++step, 0.1 * roll(20));
    }
    if (roll(4) == 0) goodput.end_in_hang(roll(40));
    const GoodputReport report = goodput.report();
    CHECK_THAT(sum(report), WithinAbs(report.wall_s, 1e-4));
    CHECK(report.attempts == attempt + 1);
    for (const double seconds : report.seconds) CHECK(seconds >= 0);
    run.now += roll(30);
  }
  Goodput goodput = run.attempt();
  const GoodputReport report = goodput.report();
  CHECK(report.wall_s >= 0.99 * (run.now - started_at));
}

TEST_CASE(
    "an account that cannot be read begins anew, and one that cannot be written is no error") {
  Run run;
  write_bytes(run.directory.file("goodput.json"), R"({"seconds": {}})");
  Goodput goodput = run.attempt();
  run.now += 4;
  CHECK_THAT(goodput.report().wall_s, WithinAbs(4, 1e-6));
  CHECK(goodput.report().attempts == 1);
  Goodput nowhere(run.directory.file("none/goodput.json"), [] { return 0.0; });
  nowhere.save();
}

TEST_CASE("a guard without an account does nothing") {
  const Goodput::Guard guard(nullptr, TimeBucket::kLoad);
}
