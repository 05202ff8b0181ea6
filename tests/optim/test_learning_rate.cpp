// Every schedule against its formula, written out at the places where something changes. Steps
// count from 1; t = step - 1.
#include <cmath>
#include <numbers>

#include "optim/learning_rate.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;
using Catch::Matchers::WithinRel;

namespace {

constexpr double kLow = 1e-4, kHigh = 2e-3, kBase = 3e-3;

// Ten steps of warm-up of a hundred in all.
RunConfig schedule(SchedulerType type, WarmupType warmup = WarmupType::kLinear) {
  RunConfig config;
  config.optimizer.params.lr = kBase;
  config.scheduler.type = type;
  config.scheduler.params = {.warmup_min_lr = kLow,
                             .warmup_max_lr = kHigh,
                             .warmup_num_steps = 10,
                             .warmup_type = warmup,
                             .total_num_steps = 100,
                             .warmup_min_ratio = 0.2,
                             .cos_min_ratio = 0.05,
                             .decay_num_steps = 20,
                             .decay_min_ratio = 0.1};
  return config;
}

void check_rate(const RunConfig& config, int64_t step, double expected) {
  CAPTURE(step);
  CHECK_THAT(LearningRate(config).at(step), WithinRel(expected, 1e-12));
}

double between(double fraction) { return kLow + (kHigh - kLow) * fraction; }

}  // namespace

TEST_CASE("learning rate: constant is that of the optimizer") {
  const RunConfig config = schedule(SchedulerType::kConstant);
  for (const int64_t step : {1, 5, 100, 1000}) check_rate(config, step, kBase);
}

TEST_CASE("learning rate: linear warm-up, then constant, decaying or stable") {
  for (const auto type : {SchedulerType::kWarmupLR, SchedulerType::kWarmupDecayLR,
                          SchedulerType::kWarmupStableDecayLR}) {
    const RunConfig config = schedule(type);
    check_rate(config, 1, kLow);
    check_rate(config, 2, between(0.1));
    check_rate(config, 6, between(0.5));
    check_rate(config, 10, between(0.9));
    check_rate(config, 11, kHigh);
  }
}

TEST_CASE("learning rate: logarithmic warm-up reaches the top one step earlier") {
  for (const auto type : {SchedulerType::kWarmupLR, SchedulerType::kWarmupDecayLR,
                          SchedulerType::kWarmupStableDecayLR}) {
    const RunConfig config = schedule(type, WarmupType::kLog);
    check_rate(config, 1, kLow);
    check_rate(config, 2, between(std::log(2.0) / std::log(10.0)));
    check_rate(config, 5, between(std::log(5.0) / std::log(10.0)));
    check_rate(config, 10, kHigh);
    check_rate(config, 11, kHigh);
  }
}

TEST_CASE("learning rate: WarmupLR stays at the top for ever") {
  const RunConfig config = schedule(SchedulerType::kWarmupLR);
  for (const int64_t step : {12, 50, 100, 101, 10'000}) check_rate(config, step, kHigh);
}

TEST_CASE("learning rate: WarmupDecayLR falls to the lower rate at total_num_steps") {
  const RunConfig config = schedule(SchedulerType::kWarmupDecayLR);
  check_rate(config, 12, between(89.0 / 90));
  check_rate(config, 56, between(0.5));
  check_rate(config, 100, between(1.0 / 90));
  check_rate(config, 101, kLow);
  check_rate(config, 500, kLow);
}

TEST_CASE("learning rate: WarmupCosineLR is a ratio of the optimizer's rate") {
  for (const auto warmup : {WarmupType::kLinear, WarmupType::kLog}) {
    const RunConfig config = schedule(SchedulerType::kWarmupCosineLR, warmup);
    const auto warm = [&](double t) {
      return warmup == WarmupType::kLinear ? t / 10 : std::log(t + 1) / std::log(10.0);
    };
    for (const int64_t step : {1, 2, 6, 10})
      check_rate(config, step, kBase * (0.2 + 0.8 * warm(static_cast<double>(step - 1))));
    // DeepSpeed's cosine has moved by one step when warm-up ends, and ends one step early.
    check_rate(config, 11, kBase * (0.05 + 0.95 * (1 + std::cos(std::numbers::pi / 90)) / 2));
    check_rate(config, 40, kBase * (0.05 + 0.95 * (1 + std::cos(std::numbers::pi / 3)) / 2));
    check_rate(config, 55, kBase * (0.05 + 0.95 * 0.5));
    check_rate(config, 100, kBase * 0.05);
    check_rate(config, 101, kBase * 0.05);
    check_rate(config, 190, kBase * 0.05);  // an unclamped cosine would be back at the top
  }
}

TEST_CASE("learning rate: WarmupStableDecayLR decays in its last steps only") {
  const RunConfig config = schedule(SchedulerType::kWarmupStableDecayLR);
  for (const int64_t step : {12, 50, 80, 81}) check_rate(config, step, kHigh);
  check_rate(config, 82, kHigh * (0.1 + 0.9 * 19 / 20));
  check_rate(config, 91, kHigh * (0.1 + 0.9 * 0.5));
  check_rate(config, 100, kHigh * (0.1 + 0.9 / 20));
  check_rate(config, 101, kHigh * 0.1);
  check_rate(config, 500, kHigh * 0.1);
}

TEST_CASE("learning rate: DeepSpeed's warm-up has at least two steps") {
  for (const auto type : {SchedulerType::kWarmupLR, SchedulerType::kWarmupDecayLR,
                          SchedulerType::kWarmupStableDecayLR}) {
    for (const int64_t steps : {1, 2}) {
      RunConfig config = schedule(type);
      config.scheduler.params.warmup_num_steps = steps;
      check_rate(config, 1, kLow);
      check_rate(config, 2, between(0.5));
      check_rate(config, 3, kHigh);
      config.scheduler.params.warmup_type = WarmupType::kLog;
      check_rate(config, 1, kLow);
      check_rate(config, 2, kHigh);
    }
  }
  RunConfig config = schedule(SchedulerType::kWarmupDecayLR);
  config.scheduler.params.warmup_num_steps = 1;
  check_rate(config, 52, between(49.0 / 98));
}

TEST_CASE("learning rate: without warm-up every schedule begins at its top") {
  for (const auto warmup : {WarmupType::kLinear, WarmupType::kLog}) {
    for (const auto type : {SchedulerType::kWarmupLR, SchedulerType::kWarmupDecayLR,
                            SchedulerType::kWarmupStableDecayLR}) {
      RunConfig config = schedule(type, warmup);
      config.scheduler.params.warmup_num_steps = 0;
      check_rate(config, 1, kHigh);
    }
    RunConfig config = schedule(SchedulerType::kWarmupCosineLR, warmup);
    config.scheduler.params.warmup_num_steps = 0;
    check_rate(config, 50, kBase * (0.05 + 0.95 * 0.5));
    config.scheduler.type = SchedulerType::kWarmupDecayLR;
    check_rate(config, 51, between(0.5));
  }
}

TEST_CASE("learning rate: schedules shorter than their warm-up") {
  for (const auto warmup : {WarmupType::kLinear, WarmupType::kLog}) {
    RunConfig config = schedule(SchedulerType::kWarmupDecayLR, warmup);
    config.scheduler.params.total_num_steps = 5;
    check_rate(config, 11, kLow);
    config.scheduler.type = SchedulerType::kWarmupCosineLR;
    check_rate(config, 11, kBase * 0.05);
    config.scheduler.type = SchedulerType::kWarmupStableDecayLR;
    config.scheduler.params.decay_num_steps = 0;
    check_rate(config, 11, kHigh * 0.1);
  }
}
