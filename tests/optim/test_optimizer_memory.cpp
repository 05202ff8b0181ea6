// Bytes per parameter, measured where they are allocated.
#include <mutex>

#include "comm/thread_communicator.h"
#include "optim/optimizer_job.h"
#include "support/catch.h"

using namespace switchyard;
using namespace switchyard::test;

namespace {

// What one rank finds.
struct Measured {
  int64_t allocated = 0;  // by the backend, in all
  int64_t allocated_in_step = 0;
  std::vector<MemoryOfGroup> groups;
  int64_t in_flight = 0;

  int64_t sum(int64_t MemoryOfGroup::*field) const {
    int64_t total = 0;
    for (const MemoryOfGroup& group : groups) total += group.*field;
    return total;
  }
};

// Parameters that need no padding for 1, 2 or 4 sharers: four units of 512 dense, 1024 experts'
// elements each, and 256 frozen ones.
ParameterList aligned_parameters(std::vector<Parameter>& memory, int ep_rank, int ep_size) {
  for (int unit = 0; unit < 4; ++unit) {
    Parameter dense = dense_parameter(fmt::format("dense{}", unit), {8, 64});
    Parameter experts =
        sliced_parameter(fmt::format("experts{}", unit), {4, 4, 64 * ep_size}, 0, ep_rank, ep_size);
    experts.group = ReplicaGroup::kExpert;
    dense.unit = experts.unit = unit;
    memory.insert(memory.end(), {dense, experts});
  }
  Parameter frozen = dense_parameter("frozen", {4, 64});
  frozen.trainable.clear();
  memory.push_back(frozen);
  ParameterList list;
  for (Parameter& parameter : memory) list.push_back(&parameter);
  return list;
}

Measured measure(const OptimizerCase& what) {
  Measured measured;
  std::mutex mutex;
  run_ranks(what.sizes.world(), [&](Communicator& world) {
    const RunConfig config = what.config();
    CpuBackend backend(1);
    const ProcessGrid grid(world, what.sizes, &backend);
    std::vector<Parameter> memory;
    const ParameterList list = aligned_parameters(memory, grid.me().ep, what.sizes.ep);
    ZeroOptimizer optimizer(backend, grid, config, list);
    Scalars scalars;
    const Tensor step_scalars = scalars.begin_step(1);
    const int64_t allocated = backend.memory().bytes_in_use;
    const UnitHooks hooks = optimizer.hooks();
    optimizer.begin_step();
    for (int unit = 4; unit-- > 0;) {
      hooks.before_gradients(unit);
      hooks.after_gradients(unit, true);
    }
    optimizer.finish_reduction();
    optimizer.clip_grads(step_scalars, scalars.loss_sum());
    optimizer.adamw_step(step_scalars);
    optimizer.all_gather_params();
    optimizer.wait_for_params();
    if (world.rank() != 0) return;
    const std::scoped_lock lock(mutex);
    measured = {.allocated = allocated,
                .allocated_in_step = backend.memory().peak_bytes - allocated,
                .groups = optimizer.memory(),
                .in_flight = optimizer.bytes_in_flight()};
  });
  return measured;
}

// Bytes of a trained parameter, from the table in the design.
double bytes_per_parameter(DType real, int stage, double d) {
  if (real == DType::kBF16) return stage == 0 ? 18 : stage == 1 ? 6 + 12 / d : 2 + 16 / d;
  const double f32 = stage == 0 ? 16 : stage == 1 ? 8 + 8 / d : 4 + 12 / d;
  return real == DType::kF64 ? 2 * f32 : f32;
}

}  // namespace

TEST_CASE("memory: bytes per parameter are the formula's, group by group") {
  for (const GridSizes sizes : {GridSizes{.dp = 1}, GridSizes{.dp = 2}, GridSizes{.dp = 4},
                                GridSizes{.dp = 4, .ep = 2}, GridSizes{.dp = 4, .ep = 4}})
    for (const DType real : {DType::kF32, DType::kF64, DType::kBF16})
      for (int stage = 0; stage <= 2; ++stage) {
        const OptimizerCase what = {.sizes = sizes, .stage = stage, .real = real};
        INFO(what.text());
        const Measured measured = measure(what);
        const auto weight = static_cast<int64_t>(size_in_bytes(real));
        const int64_t norms = 16 * (sizes.world() + 1);
        CHECK(measured.allocated ==
              measured.sum(&MemoryOfGroup::allocated_bytes) + measured.in_flight + norms);
        REQUIRE(measured.groups.size() == 2);
        const MemoryOfGroup &dense = measured.groups[0], &experts = measured.groups[1];
        CHECK(dense.trained_elements == 4 * 512);
        CHECK(dense.frozen_elements == 256);
        CHECK(experts.trained_elements == 4 * 1024);
        CHECK(dense.num_sharers == sizes.dp);
        CHECK(experts.num_sharers == sizes.edp());
        const double dense_bytes = 4 * 512 * bytes_per_parameter(real, stage, sizes.dp);
        const double expert_bytes = 4 * 1024 * bytes_per_parameter(real, stage, sizes.edp());
        CHECK(static_cast<double>(dense.allocated_bytes) ==
              dense_bytes + static_cast<double>(256 * weight));
        CHECK(static_cast<double>(experts.allocated_bytes) == expert_bytes);
        for (const MemoryOfGroup& group : measured.groups) {
          CHECK(group.formula_bytes == static_cast<double>(group.allocated_bytes));
          CHECK(group.padding_bytes == 0);
          CHECK(group.staging_bytes == 0);
        }
      }
}

TEST_CASE(
    "memory: stage 2 holds the whole gradient of two units at most, and steps allocate none") {
  for (const DType real : {DType::kF32, DType::kBF16})
    for (int stage = 0; stage <= 2; ++stage) {
      const Measured measured = measure({.sizes = {.dp = 2}, .stage = stage, .real = real});
      CAPTURE(stage, name_of(real));
      CHECK(measured.in_flight == (stage == 2 ? 2 * (512 + 1024) * 4 : 0));
      CHECK(measured.allocated_in_step == 0);
    }
  const Measured once = measure({.sizes = {.dp = 2}, .stage = 2, .reduce_once_per_step = true});
  const Measured stage1 = measure({.sizes = {.dp = 2}, .stage = 1});
  CHECK(once.in_flight == 0);
  CHECK(once.allocated == stage1.allocated);
}

TEST_CASE("memory: what is frozen, staged and padded is stated") {
  run_ranks(2, [](Communicator& world) {
    OptimizerJob job(world, {.sizes = {.dp = 2}, .stage = 2, .freezing = Freezing::kSomeExperts});
    int64_t stated = job.optimizer().bytes_in_flight() + 3 * 16;
    for (const MemoryOfGroup& group : job.optimizer().memory()) {
      stated +=
          static_cast<int64_t>(group.formula_bytes) + group.padding_bytes + group.staging_bytes;
      const bool is_experts = group.key.group == ReplicaGroup::kExpert;
      const int64_t frozen = is_experts ? 2 * 42 + 1 * 64 : group.key.is_partial ? 0 : 7;
      const bool has_bias = group.key.copies == Copies::kTensor && !group.key.is_partial;
      SY_CHECK(group.frozen_elements == (is_experts || has_bias ? frozen : 0), "{} frozen",
               group.frozen_elements);
      SY_CHECK((group.staging_bytes > 0) == is_experts, "{} staged", group.staging_bytes);
      // At most 63 elements after each of 11 parameters, 127 after each of 3 buckets.
      SY_CHECK(group.padding_bytes >= 0 && group.padding_bytes < (11 * 63 + 3 * 127) * 32,
               "{} bytes of padding", group.padding_bytes);
    }
    SY_CHECK(stated == job.backend().memory().bytes_in_use, "{} bytes stated, {} in use", stated,
             job.backend().memory().bytes_in_use);
  });
}
