// Every stage on every grid takes the steps of AdamW written as loops over doubles. Ranks are
// threads.
#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "comm/thread_communicator.h"
#include "optim/optimizer_job.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// Stages 0, 1, 2, and 2 with one reduction per step.
std::vector<OptimizerCase> stages(const OptimizerCase& base) {
  std::vector<OptimizerCase> cases;
  for (const int stage : {0, 1, 2, 2}) {
    OptimizerCase one = base;
    one.stage = stage;
    one.reduce_once_per_step = cases.size() == 3;
    cases.push_back(one);
  }
  return cases;
}

void check(const OptimizerCase& what) {
  INFO(what.text());
  CHECK_NOTHROW(run_ranks(what.sizes.world(),
                          [&](Communicator& world) { check_follows_plain(world, what); }));
}

const std::vector<GridSizes>& grids() {
  static const std::vector<GridSizes> kGrids = {
      {.dp = 4, .ep = 2},
      {.dp = 4, .ep = 4},
      {.dp = 1, .tp = 2, .etp = 2},
      {.dp = 2, .tp = 2, .ep = 2, .etp = 2},
      {.dp = 2, .tp = 2, .ep = 4, .etp = 1},
      {.dp = 2, .tp = 2, .etp = 1, .kv_copies = 2},
      {.dp = 1, .tp = 4, .ep = 2, .etp = 2, .kv_copies = 2},
      {.dp = 2, .pp = 2},
      {.dp = 2, .tp = 2, .pp = 2, .ep = 2, .etp = 2, .kv_copies = 2},
  };
  return kGrids;
}

// What 4 steps on some ranks leave behind: the bits of all weights.
std::map<std::pair<int, std::string>, int64_t> bits_after(const OptimizerCase& what) {
  std::map<std::pair<int, std::string>, int64_t> bits;
  std::mutex mutex;
  run_ranks(what.sizes.world(), [&](Communicator& world) {
    OptimizerJob job(world, what);
    for (int step = 1; step <= 4; ++step) job.step(step);
    job.optimizer().wait_for_params();
    const std::scoped_lock lock(mutex);
    for (const Parameter& parameter : job.parameters().all())
      bits[{world.rank(), parameter.name}] = hash_of(parameter.weight);
  });
  return bits;
}

}  // namespace

TEST_CASE("zero: every stage, dp, accumulation and precision takes the plain steps") {
  for (const int dp : {1, 2, 3, 4})
    for (const int accumulation : {1, 3})
      for (const DType real : {DType::kF64, DType::kF32, DType::kBF16})
        for (const OptimizerCase& what : stages({.sizes = {.dp = dp},
                                         .overlap = accumulation == 1,
                                         .real = real,
                                         .accumulation = accumulation,
                                         .max_norm = 1.0}))
          check(what);
}

TEST_CASE("zero: experts cut over ep and etp, copies over tp, kv and pipeline stages") {
  for (const GridSizes& sizes : grids())
    for (const OptimizerCase& what : stages({.sizes = sizes, .accumulation = 2})) check(what);
}

TEST_CASE("zero: experts that are trained in parts, and frozen parameters") {
  for (const GridSizes sizes : {GridSizes{.dp = 1}, GridSizes{.dp = 3}, GridSizes{.dp = 4, .ep = 2},
                                GridSizes{.dp = 2, .tp = 2, .ep = 2, .etp = 2}})
    for (const DType real : {DType::kF64, DType::kBF16})
      for (const OptimizerCase& what : stages({.sizes = sizes,
                                       .overlap = real == DType::kF64,
                                       .real = real,
                                       .accumulation = 2,
                                       .max_norm = 1.0,
                                       .freezing = Freezing::kSomeExperts}))
        check(what);
}

TEST_CASE("zero: bf16 messages, of numbers that bf16 holds") {
  for (const GridSizes sizes : {GridSizes{.dp = 3}, GridSizes{.dp = 2, .tp = 2, .etp = 2}})
    for (const OptimizerCase& what : stages({.sizes = sizes,
                                     .real = DType::kBF16,
                                     .messages = ReductionType::kBF16,
                                     .accumulation = 2,
                                     .freezing = Freezing::kSomeExperts}))
      check(what);
}

TEST_CASE("zero: bf16 messages are rounded, sums over micro-batches are not") {
  const double small = std::ldexp(1.0, -10);  // lost beside 1 in bf16, but not in f32
  for (const ReductionType messages : {ReductionType::kFP32, ReductionType::kBF16})
    for (const OptimizerCase& what :
         stages({.sizes = {.dp = 2}, .real = DType::kBF16, .messages = messages})) {
      const bool is_rounded = messages == ReductionType::kBF16;
      const bool sums_before_rounding = what.stage < 2 || what.reduce_once_per_step;
      const double expected = is_rounded && sums_before_rounding ? 2 : 2 + 2 * small;
      INFO(what.text());
      CHECK_NOTHROW(run_ranks(2, [&](Communicator& world) {
        OptimizerJob job(world, what);
        const UnitHooks hooks = job.optimizer().hooks();
        job.optimizer().begin_step();
        Parameter& head = job.parameters().named("head");
        for (const double value : {1.0, small}) {
          hooks.before_gradients(2);
          for (float& g : head.gradient().span<float>()) g += static_cast<float>(value);
          hooks.after_gradients(2, value == small);
        }
        job.optimizer().finish_reduction();
        for (const double g : job.optimizer().gradient_of(head))
          SY_CHECK(g == expected, "the sum is {}, not {}", g, expected);
      }));
    }
}

TEST_CASE("zero: the same job twice leaves the same bits") {
  for (const OptimizerCase& what :
       stages({.sizes = {.dp = 4, .ep = 2}, .real = DType::kF32, .accumulation = 2}))
    CHECK(bits_after(what) == bits_after(what));
}

TEST_CASE("zero: a gradient that is not finite on one rank makes all ranks skip the step") {
  for (const OptimizerCase& what : stages({.sizes = {.dp = 2, .tp = 2, .ep = 2, .etp = 2}}))
    for (const char* name : {"experts.down", "router", "matrix"}) {
      INFO(what.text() << ", NaN in " << name);
      int num_skipped = 0, num_changed = 0;
      std::mutex mutex;
      run_ranks(what.sizes.world(), [&](Communicator& world) {
        OptimizerJob job(world, what), healthy(world, what);
        for (OptimizerJob* each : {&job, &healthy}) each->step(1);
        job.step(2, [&](DeclaredParameters& parameters) {
          if (world.rank() != 3) return;
          for (TrainableRows& rows : parameters.named(name).trainable)
            if (!rows.gradient.is_none()) rows.gradient.data<double>()[1] = NAN;
        });
        const bool skipped = job.scalars().at(StepScalar::kSkipStep) == 1.0;
        for (OptimizerJob* each : {&job, &healthy}) {
          each->step(3);  // would show spoilt moments
          each->optimizer().wait_for_params();
        }
        const std::scoped_lock lock(mutex);
        num_skipped += skipped ? 1 : 0;
        for (const Parameter& parameter : job.parameters().all())
          if (hash_of(parameter.weight) !=
              hash_of(healthy.parameters().named(parameter.name).weight))
            ++num_changed;
      });
      CHECK(num_skipped == what.sizes.world());
      CHECK(num_changed == 0);
    }
}

TEST_CASE("zero: more units at a time than buffers in flight is an error") {
  run_ranks(1, [](Communicator& world) {
    OptimizerJob job(world, {.stage = 2});
    job.optimizer().begin_step();
    const UnitHooks hooks = job.optimizer().hooks();
    hooks.before_gradients(0);
    hooks.before_gradients(1);
    bool is_refused = false;
    try {
      hooks.before_gradients(2);
    } catch (const Error&) {
      is_refused = true;
    }
    SY_CHECK(is_refused, "a third unit was given a buffer");
  });
}

TEST_CASE("zero: a unit may be reduced several times in a micro-batch") {
  for (const OptimizerCase& what : stages({.sizes = {.dp = 2}}))
    CHECK_NOTHROW(run_ranks(2, [&](Communicator& world) {
      OptimizerJob job(world, what);
      const UnitHooks hooks = job.optimizer().hooks();
      job.optimizer().begin_step();
      Parameter& tied = job.parameters().named("tied");
      for (int use = 0; use < 2; ++use) {
        hooks.before_gradients(0);
        tied.gradient().data<double>()[4] += world.rank() + 10 * use + 1;
        hooks.after_gradients(0, use == 1);
      }
      job.optimizer().finish_reduction();
      const double sum = job.optimizer().gradient_of(tied)[4];
      SY_CHECK(sum == 1 + 2 + 11 + 12, "the sum is {}", sum);
    }));
}
