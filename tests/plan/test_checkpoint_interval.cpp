// The best checkpoint interval: closed forms, published figures, and a simulated job that fails.
#include <cmath>
#include <random>

#include "plan/checkpoint_interval.h"
#include "support/catch.h"

using namespace switchyard;
using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;

namespace {

FailureModel gpus(double count, double save_s, double restart_s) {
  return {.mttf_s = 50700.0 * 3600 / count, .save_s = save_s, .restart_s = restart_s};
}

// Useful time / wall time of a job that trains, saves, fails and restarts, event by event: work is
// safe `persist_s` after its save, restarts may fail too.
double simulated_ettr(const FailureModel& model, double interval, double hours, unsigned seed) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> life(1 / model.mttf_s);
  const double end = 3600 * hours;
  double now = 0, safe = 0;  // safe: training time that no failure can take
  double failure = life(random);
  while (now < end) {
    double trained = safe, saved = safe, saved_at = now - model.persist_s;
    while (true) {
      const double next = now + interval + model.save_s;
      // A save that lies on the disk before the failure comes is safe.
      if (std::min(next, failure) >= saved_at + model.persist_s) safe = saved;
      if (failure < next || next > end) break;
      trained += interval;
      now = next;
      saved = trained;
      saved_at = now;
    }
    if (failure > end) break;
    do {  // restart
      now = failure;
      failure = now + life(random);
    } while (failure < now + model.restart_s);
    now += model.restart_s;
  }
  return safe / end;
}

}  // namespace

TEST_CASE("Young's and Daly's intervals at figures worked out by hand") {
  const FailureModel model = {.mttf_s = 5000, .save_s = 100};
  CHECK_THAT(young_interval(model), WithinRel(1000, 1e-12));
  // 1000 (1 + 0.1 / 3 + 0.01 / 9) - 100
  CHECK_THAT(daly_interval(model), WithinRel(1000 + 100.0 / 3 + 10.0 / 9 - 100, 1e-12));
  CHECK(daly_interval({.mttf_s = 40, .save_s = 100}) == 40);
}

// 50,700 h per GPU; the optimum and its effective training time.
TEST_CASE("figures of large clusters") {
  struct Row {
    double gpus, save_s, restart_s, ettr, interval;
  };
  for (const Row& row : {Row{1024, 60, 1800, 0.964, 4586}, Row{10240, 60, 1800, 0.832, 1426},
                         Row{10240, 3, 600, 0.949, 325}, Row{16384, 60, 1800, 0.766, 1119},
                         Row{16384, 3, 180, 0.961, 256}, Row{100000, 1, 60, 0.936, 60}}) {
    const FailureModel model = gpus(row.gpus, row.save_s, row.restart_s);
    const double interval = daly_interval(model);
    CAPTURE(row.gpus, row.save_s);
    CHECK_THAT(interval, WithinRel(row.interval, 0.01));
    CHECK_THAT(expected_ettr(model, interval), WithinAbs(row.ettr, 0.001));
  }
}

TEST_CASE("no other interval does better than Daly's, to a tenth of a point") {
  for (const double count : {1024.0, 16384.0, 100000.0})
    for (const double save_s : {1.0, 60.0}) {
      const FailureModel model = gpus(count, save_s, 300);
      const double best = expected_ettr(model, daly_interval(model));
      for (double factor = 0.2; factor < 5; factor *= 1.05)
        CHECK(expected_ettr(model, factor * daly_interval(model)) < best + 0.001);
    }
}

TEST_CASE("a job that fails, simulated for 10,000 hours, does as well as the formula says") {
  for (const FailureModel& model :
       {gpus(10240, 3, 180), gpus(10240, 60, 600), gpus(16384, 60, 1800), gpus(32768, 3, 180)}) {
    const double best = daly_interval(model);
    for (const double interval : {best / 2, best, 2 * best}) {
      CAPTURE(model.mttf_s, model.save_s, interval);
      CHECK_THAT(simulated_ettr(model, interval, 10000, 1),
                 WithinAbs(expected_ettr(model, interval), 0.01));
    }
  }
}

TEST_CASE("the time until a save is on the disk costs what the formula says") {
  FailureModel model = gpus(16384, 3, 180);
  model.persist_s = 200;  // less than the interval: one save at a time
  const double interval = daly_interval(model);
  REQUIRE(interval > model.persist_s);
  CHECK_THAT(simulated_ettr(model, interval, 40000, 1),
             WithinAbs(expected_ettr(model, interval), 0.005));
  FailureModel free = model;
  free.persist_s = 0;
  CHECK(expected_ettr(free, interval) > expected_ettr(model, interval) + 0.01);
}

TEST_CASE("known speeds say how long a save takes") {
  const FailureRates rates = {.save_s = 3, .persist_s = 60};
  const FailureRates unknown = with_save_times(rates, {}, 8e9, 1e9, true);
  CHECK(unknown.save_s == 3);
  CHECK(unknown.persist_s == 60);
  const FailureRates async =
      with_save_times(rates, {.copy_gb_per_s = 5, .write_gb_per_s = 2}, 8e9, 1e9, true);
  CHECK_THAT(async.save_s, WithinRel(0.2, 1e-12));
  CHECK_THAT(async.persist_s, WithinRel(4, 1e-12));
  const FailureRates sync =
      with_save_times(rates, {.copy_gb_per_s = 5, .write_gb_per_s = 2}, 8e9, 1e9, false);
  CHECK_THAT(sync.save_s, WithinRel(4, 1e-12));
  CHECK(sync.persist_s == 0);
}

TEST_CASE("what plan prints") {
  const std::string text = checkpoint_interval_text(
      {.rank_mtbf_hours = {50700}, .save_s = 3, .persist_s = 0, .restart_s = 600}, 10240);
  CHECK_THAT(text, switchyard::test::contains_text("every 50700 h, of the job every 4.951 h"));
  CHECK_THAT(text, switchyard::test::contains_text("interval_minutes 5.42"));
  CHECK_THAT(text, switchyard::test::contains_text("94.93 %"));
}
