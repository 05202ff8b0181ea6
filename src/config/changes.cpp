#include "config/changes.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/suggest.h"
#include "core/error.h"

namespace switchyard {
namespace {

// "optimizer.params.lr", as in --set and --override.
std::string dotted(std::string_view pointer) {
  std::string key(pointer.substr(1));
  std::replace(key.begin(), key.end(), '/', '.');
  return key;
}

std::string pointer_of(const std::string& key) {
  std::string pointer = "/" + key;
  std::replace(pointer.begin(), pointer.end(), '.', '/');
  return pointer;
}

void read_saved(const Json& object, const std::string& prefix, RunConfig& config) {
  SY_REQUIRE(kData, object.is_object(), "the saved configuration: {}: expected an object", prefix);
  for (const auto& [key, value] : object.items()) {
    const std::string pointer = prefix + "/" + key;
    if (is_section(pointer)) {
      read_saved(value, pointer, config);
      continue;
    }
    const Option* option = find_option(pointer);
    SY_REQUIRE(kData, option != nullptr,
               "the saved configuration has a key that this version does not know, {}: resume with "
               "the version that saved it",
               dotted(pointer));
    const std::optional<std::string> problem = problem_with(*option, value);
    SY_REQUIRE(kData, !problem, "the saved configuration: {}: {}", pointer, *problem);
    option->set(config, value);
  }
}

// Whether the scheduler of this type reads its parameter (optim/learning_rate.cpp).
bool reads(SchedulerType type, std::string_view parameter) {
  const bool is_cosine = type == SchedulerType::kWarmupCosineLR;
  const bool is_stable = type == SchedulerType::kWarmupStableDecayLR;
  if (type == SchedulerType::kConstant) return false;
  if (parameter == "total_num_steps") return type != SchedulerType::kWarmupLR;
  if (parameter == "warmup_min_ratio" || parameter == "cos_min_ratio") return is_cosine;
  if (parameter == "warmup_min_lr" || parameter == "warmup_max_lr") return !is_cosine;
  if (parameter == "decay_num_steps" || parameter == "decay_min_ratio") return is_stable;
  return true;
}

bool matters(const Option& option, const RunConfig& before, const RunConfig& now) {
  if (parent_of(option.pointer) != "/scheduler/params") return true;
  const std::string_view parameter = key_of(option.pointer);
  return reads(before.scheduler.type, parameter) || reads(now.scheduler.type, parameter);
}

RunConfig saved_config(const Json& saved) {
  RunConfig config;
  read_saved(saved, "", config);
  return config;
}

std::vector<ConfigChange> compare(const RunConfig& before, const RunConfig& now) {
  std::vector<ConfigChange> changes;
  for (const Option& option : all_options()) {
    Json old_value = option.get(before), new_value = option.get(now);
    if (old_value != new_value && matters(option, before, now))
      changes.push_back(
          {option.pointer, option.option_class, std::move(old_value), std::move(new_value)});
  }
  return changes;
}

bool touches_batch(const std::vector<ConfigChange>& changes) {
  return std::any_of(changes.begin(), changes.end(), [](const ConfigChange& change) {
    return change.pointer == "/train_batch_size" ||
           change.pointer == "/gradient_accumulation_steps";
  });
}

// How the batch of the saved run is had with the data-parallel size of now.
std::string batch_advice(const RunConfig& before, const RunConfig& now) {
  const int64_t batch = *before.train_batch_size;
  const int64_t accumulation = *before.gradient_accumulation_steps;
  const int64_t global_micro_batch = batch / accumulation;
  const int dp = *now.parallelism.data_parallel_size;
  if (global_micro_batch % dp != 0)
    return fmt::format(
        "\nno micro-batch size goes with data_parallel_size {}: a micro-batch of all ranks is {} "
        "sequences (train_batch_size {} / gradient_accumulation_steps {}); choose a "
        "data_parallel_size that divides {}",
        dp, global_micro_batch, batch, accumulation, global_micro_batch);
  return fmt::format(
      "\nwith data_parallel_size {}, the batch of the saved run is: train_batch_size {}, "
      "gradient_accumulation_steps {}, train_micro_batch_size_per_gpu {}",
      dp, batch, accumulation, global_micro_batch / dp);
}

void check_overrides(std::span<const std::string> overrides) {
  for (const std::string& key : overrides) {
    const std::string pointer = pointer_of(key);
    SY_REQUIRE(kConfig, find_option(pointer) != nullptr, "--override {}: unknown key{}", key,
               hint_for_unknown_key(pointer));
  }
}

// "\nwhat:" and a line for each change; empty without any.
std::string listed(const char* what, const std::vector<ConfigChange>& changes) {
  std::string text;
  for (const ConfigChange& change : changes) text += "\n    " + to_text(change);
  return changes.empty() ? text : fmt::format("\n  {}:{}", what, text);
}

std::string override_options(const std::vector<ConfigChange>& changes) {
  std::string text;
  for (const ConfigChange& change : changes) text += " --override " + dotted(change.pointer);
  return text;
}

}  // namespace

std::string to_text(const ConfigChange& change) {
  const auto value = [](const Json& json) { return json.is_null() ? "not set" : json.dump(); };
  return fmt::format("{}: {} -> {}", dotted(change.pointer), value(change.before),
                     value(change.after));
}

std::vector<ConfigChange> compare(const Json& saved, const RunConfig& now) {
  return compare(saved_config(saved), now);
}

std::vector<ConfigChange> check_changes(const Json& saved, const RunConfig& now,
                                        std::span<const std::string> overrides) {
  check_overrides(overrides);
  const RunConfig before = saved_config(saved);
  std::vector<ConfigChange> changes = compare(before, now), model, mathematics;
  for (const ConfigChange& change : changes) {
    const bool is_named =
        std::find(overrides.begin(), overrides.end(), dotted(change.pointer)) != overrides.end();
    if (change.option_class == OptionClass::kModel)
      model.push_back(change);
    else if (change.option_class == OptionClass::kMathematics && !is_named)
      mathematics.push_back(change);
  }
  if (model.empty() && mathematics.empty()) return changes;
  std::string advice;
  if (touches_batch(mathematics)) advice += batch_advice(before, now);
  if (!model.empty())
    advice += "\nanother model is another run: choose another training.output_dir";
  if (!mathematics.empty())
    advice += "\nto change what is computed from here on:" + override_options(mathematics);
  throw Error(ExitCode::kConfig,
              "this run cannot be resumed with what has changed in its configuration" +
                  listed("the model", model) + listed("the mathematics", mathematics) + advice);
}

}  // namespace switchyard
