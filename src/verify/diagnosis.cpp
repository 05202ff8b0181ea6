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

// The sums over ranks that no right group has: those that all wrong groups share or, failing that,
// those of each; none when a wrong group is left without any.
Names suspected_sums(const std::map<ParameterGroup, bool>& failed) {
  Names innocent, all, common;
  for (const auto& [group, has_failed] : failed)
    if (!has_failed) innocent.insert(group.summed_over.begin(), group.summed_over.end());
  bool is_first = true;
  for (const auto& [group, has_failed] : failed) {
    if (!has_failed) continue;
    Names sums(group.summed_over.begin(), group.summed_over.end());
    std::erase_if(sums, [&](const std::string& name) { return innocent.contains(name); });
    if (sums.empty()) return {};
    all.insert(sums.begin(), sums.end());
    if (is_first) common = sums;
    std::erase_if(common, [&](const std::string& name) { return !sums.contains(name); });
    is_first = false;
  }
  return common.empty() ? all : common;
}

std::string failed_groups(const std::map<ParameterGroup, bool>& groups) {
  Names names;
  for (const auto& [group, has_failed] : groups)
    if (has_failed) names.insert(group.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string groups_of_wrong_values(const std::vector<Check>& checks) {
  Names names;
  for (const Check& check : checks)
    if (check.what == kValueOf && !check.ok()) names.insert(check.group.text());
  return names.empty() ? "some of them" : fmt::format("{}", fmt::join(names, ", "));
}

std::string from_isolated(const std::vector<IsolatedLayout>& isolated) {
  std::vector<std::string> failed, unknown;
  for (const IsolatedLayout& layout : isolated) {
    if (layout.num_failed > 0) failed.push_back(layout.dimension);
    if (!layout.not_valid.empty()) unknown.push_back(layout.dimension);
  }
  if (!failed.empty())
    return fmt::format("{}: wrong without any other dimension", fmt::join(failed, ", "));
  if (!unknown.empty())
    return fmt::format("{}, or a combination of dimensions", fmt::join(unknown, ", "));
  return "a combination of dimensions: each is right alone";
}

}  // namespace

std::vector<IsolatedLayout> isolated_layouts(const RunConfig& config) {
  std::vector<IsolatedLayout> layouts;
  const auto add = [&](const char* dimension, int size, const ParallelismConfig& parallelism) {
    if (size == 1) return;
    IsolatedLayout layout = {.dimension = dimension, .ranks = size, .config = config};
    layout.config.parallelism = parallelism;
    layout.config.train_micro_batch_size_per_gpu.reset();
    if (parallelism.pipeline_parallel_size == 1) layout.config.pipeline = {};
    try {
      resolve(layout.config, size);
    } catch (const Error& error) {
      layout.not_valid = error.what();
    }
    layouts.push_back(std::move(layout));
  };
  const ParallelismConfig& grid = config.parallelism;
  const int tp = grid.tensor_parallel_size, pp = grid.pipeline_parallel_size,
            ep = grid.expert_parallel_size,
            etp = config.moe.enabled ? *grid.expert_tensor_parallel_size : 1;
  add("dp", *grid.data_parallel_size, {});
  add("tp", tp,
      {.tensor_parallel_size = tp,
       .expert_tensor_parallel_size = 1,
       .sequence_parallel = grid.sequence_parallel});
  add("pp", pp, {.pipeline_parallel_size = pp});
  add("ep", ep, {.expert_parallel_size = ep});
  add("etp", etp, {.expert_tensor_parallel_size = etp});
  return layouts;
}

std::string what_is_at_fault(const std::vector<Check>& checks,
                             const std::vector<IsolatedLayout>& isolated) {
  const auto is_of_first_step = [](const Check& check) {
    return !check.ok() && check.step <= 1 && check.what != kValueOf;
  };
  if (std::none_of(checks.begin(), checks.end(), is_of_first_step))
    return fmt::format("weights after the first step: the update or the gathering of {}",
                       groups_of_wrong_values(checks));
  const auto fails_before_the_backward_pass = [](const Check& check) {
    return !check.ok() && check.step == 1 && check.parameter.empty() &&
           check.what != kGradientNorm && check.what != kAllGradients;
  };
  for (const Check& check : checks)
    if (!check.ok() && check.step == 0)
      return fmt::format("initial values of {}, to begin with", check.group.text());
  if (std::none_of(checks.begin(), checks.end(), fails_before_the_backward_pass)) {
    const auto groups = first_gradients(checks);
    if (const Names sums = suspected_sums(groups); !sums.empty())
      return fmt::format("gradients of {}: their sum over {}", failed_groups(groups),
                         fmt::join(sums, ", "));
  }
  return from_isolated(isolated);
}

}  // namespace switchyard
