#include "model/trainable.h"

#include <algorithm>
#include <string>
#include <vector>

#include "comm/self_communicator.h"
#include "model/name_pattern.h"
#include "model/stage.h"

namespace switchyard {
namespace {

// Every parameter as one rank would hold it: declarations without memory.
class WholeModel {
 public:
  WholeModel(const RunConfig& config, Backend& backend)
      : world_("whole model"),
        grid_(world_, GridSizes{}),
        stage_(backend, grid_, config, whole_model(config)) {}

  ParameterList parameters() { return stage_.parameters(); }

 private:
  SelfCommunicator world_;
  ProcessGrid grid_;
  Stage stage_;
};

// Of the rows [first, first + count) of dim 0 if they are experts, else of the whole.
std::vector<std::string> names_of(const Parameter& parameter) {
  if (parameter.group == ReplicaGroup::kDense) return {parameter.name};
  std::vector<std::string> names;
  for (int64_t i = 0; i < parameter.shape[0]; ++i)
    names.push_back(name_of_expert(parameter, parameter.offset[0] + i));
  return names;
}

std::vector<std::string> names_of(const ParameterList& parameters) {
  std::vector<std::string> names;
  for (const Parameter* parameter : parameters)
    for (std::string& name : names_of(*parameter)) names.push_back(std::move(name));
  return names;
}

// The three names nearest to the pattern.
std::string nearest_names(const NamePattern& pattern, const std::vector<std::string>& names) {
  std::vector<std::pair<int64_t, size_t>> by_distance;
  for (size_t i = 0; i < names.size(); ++i) by_distance.emplace_back(pattern.distance(names[i]), i);
  std::sort(by_distance.begin(), by_distance.end());
  by_distance.resize(std::min<size_t>(by_distance.size(), 3));
  std::string text;
  for (const auto& [distance, i] : by_distance)
    text += (text.empty() ? "" : ", ") + fmt::format("\"{}\"", names[i]);
  return text;
}

std::vector<NamePattern> read_patterns(const std::vector<std::string>& texts, const char* key,
                                       const std::vector<std::string>& names) {
  std::vector<NamePattern> patterns;
  for (const std::string& text : texts) {
    const NamePattern& pattern = patterns.emplace_back(text);
    SY_REQUIRE(
        kConfig,
        std::ranges::any_of(names, [&](const std::string& name) { return pattern.matches(name); }),
        "training.{}: \"{}\" matches none of the model's {} tensors; did you mean one of {}?", key,
        text, names.size(), nearest_names(pattern, names));
  }
  return patterns;
}

bool matches_any(const std::vector<NamePattern>& patterns, const std::string& name) {
  return std::ranges::any_of(patterns,
                             [&](const NamePattern& pattern) { return pattern.matches(name); });
}

class Selection {
 public:
  Selection(const RunConfig& config, const ParameterList& whole_model) {
    const std::vector<std::string> names = names_of(whole_model);
    trainable_ = read_patterns(config.training.trainable, "trainable", names);
    frozen_ = read_patterns(config.training.frozen, "frozen", names);
    SY_REQUIRE(
        kConfig, std::ranges::any_of(names, [&](const auto& name) { return is_trained(name); }),
        "training.trainable and training.frozen leave nothing to train: all {} tensors are frozen",
        names.size());
  }

  bool is_trained(const std::string& name) const {
    return (trainable_.empty() || matches_any(trainable_, name)) && !matches_any(frozen_, name);
  }

  void apply_to(Parameter& parameter) const {
    const std::vector<std::string> names = names_of(parameter);
    if (parameter.group == ReplicaGroup::kDense) {
      if (!is_trained(names[0])) parameter.trainable.clear();
      return;
    }
    parameter.trainable.clear();
    for (size_t i = 0; i < names.size(); ++i) {
      if (!is_trained(names[i])) continue;
      const auto row = static_cast<int64_t>(i);
      std::vector<TrainableRows>& runs = parameter.trainable;
      if (runs.empty() || runs.back().begin + runs.back().count < row)
        runs.push_back({.begin = row});
      ++runs.back().count;
    }
  }

 private:
  std::vector<NamePattern> trainable_, frozen_;
};

}  // namespace

void select_trainable(const RunConfig& config, Backend& backend, const ParameterList& parameters) {
  if (config.training.trainable.empty() && config.training.frozen.empty()) return;
  WholeModel model(config, backend);
  const Selection selection(config, model.parameters());
  for (Parameter* parameter : parameters) selection.apply_to(*parameter);
}

ParameterCount count_parameters(const RunConfig& config, Backend& backend) {
  WholeModel model(config, backend);
  select_trainable(config, backend, model.parameters());
  ParameterCount count;
  for (const Parameter* parameter : model.parameters()) {
    count.frozen += parameter->numel();
    for (const TrainableRows& rows : parameter->trainable) {
      count.trained += rows.count * parameter->row_numel();
      count.frozen -= rows.count * parameter->row_numel();
    }
  }
  return count;
}

}  // namespace switchyard
