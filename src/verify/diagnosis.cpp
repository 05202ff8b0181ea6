#include "verify/diagnosis.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "config/config.h"
#include "core/error.h"

namespace switchyard {
namespace {

using Names = std::set<std::string>;

// Gradients of the first step by parameter group: any of them failed?
std::map<ParameterGroup, bool> first_gradients(const std::vector<Check>& checks) {
  std::map<ParameterGroup, bool> failed;
  for (const Check& check : checks)
    if (check.what == kGradientOf && check.step == 1)
      failed[check.group] = failed[check.group] || !check.ok();
  return failed;
}

// The sums over ranks that all failed groups have, and no other group.
Names suspected_sums(const std::map<ParameterGroup, bool>& failed) {
  Names common, innocent;
  bool is_first = true;
  for (const auto& [group, has_failed] : failed) {
    const Names sums(group.summed_over.begin(), group.summed_over.end());
    if (!has_failed) {
      innocent.insert(sums.begin(), sums.end());
    } else if (is_first) {
      common = sums;
      is_first = false;
    } else {
      std::erase_if(common, [&](const std::string& name) { return !sums.contains(name); });
    }
  }
  std::erase_if(common, [&](const std::string& name) { return innocent.contains(name); });
  return common;
}

std::string failed_groups(const std::map<ParameterGroup, bool>& groups) {
  Names names;
  for (const auto& [group, has_failed] : groups)
    if (has_failed) names.insert(group.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string from_isolated(const std::vector<IsolatedLayout>& isolated) {
  std::vector<std::string> failed;
  for (const IsolatedLayout& layout : isolated) {
    if (layout.num_failed == 0) continue;
    if (layout.dimension == "dp") return "dp: data parallelism alone is wrong already";
    failed.push_back(layout.dimension);
  }
  if (failed.empty()) return "only the combination of dimensions: each is right alone";
  return fmt::format("{}: wrong without the other dimensions, while dp alone is right",
                     fmt::join(failed, ", "));
}

}  // namespace

std::vector<IsolatedLayout> isolated_layouts(const RunConfig& config) {
  const ParallelismConfig& grid = config.parallelism;
  const int tp = grid.tensor_parallel_size, pp = grid.pipeline_parallel_size,
            ranks = *grid.data_parallel_size * tp * pp;
  std::vector<IsolatedLayout> layouts;
  const auto add = [&](const char* dimension, const ParallelismConfig& parallelism) {
    IsolatedLayout layout = {.dimension = dimension, .config = config};
    layout.config.parallelism = parallelism;
    layout.config.train_micro_batch_size_per_gpu.reset();
    if (parallelism.pipeline_parallel_size == 1) layout.config.pipeline = {};
    try {
      resolve(layout.config, ranks);
    } catch (const Error& error) {
      layout.not_valid = error.what();
    }
    layouts.push_back(std::move(layout));
  };
  add("dp", {});
  if (tp > 1)
    add("tp", {.tensor_parallel_size = tp,
               .expert_tensor_parallel_size = 1,
               .sequence_parallel = grid.sequence_parallel});
  if (pp > 1) add("pp", {.pipeline_parallel_size = pp});
  if (grid.expert_parallel_size > 1) add("ep", {.expert_parallel_size = grid.expert_parallel_size});
  if (*grid.expert_tensor_parallel_size > 1 && config.moe.enabled)
    add("etp", {.expert_tensor_parallel_size = grid.expert_tensor_parallel_size});
  return layouts;
}

std::string what_is_at_fault(const std::vector<Check>& checks,
                             const std::vector<IsolatedLayout>& isolated) {
  const auto fails_before_the_backward_pass = [](const Check& check) {
    return !check.ok() && check.step == 1 && check.parameter.empty() && check.what != kGradientNorm;
  };
  for (const Check& check : checks)
    if (!check.ok() && check.step == 0)
      return fmt::format("initial values of {}, to begin with", check.group.text());
  if (std::none_of(checks.begin(), checks.end(), fails_before_the_backward_pass)) {
    const auto groups = first_gradients(checks);
    if (const Names sums = suspected_sums(groups); !sums.empty())
      return fmt::format("gradients of {}: their sum over {}", failed_groups(groups),
                         fmt::join(sums, " or "));
  }
  return from_isolated(isolated);
}

}  // namespace switchyard
