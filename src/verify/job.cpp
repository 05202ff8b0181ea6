#include "verify/job.h"

#include <fmt/ranges.h>

#include <sstream>
#include <utility>

#include "comm/self_communicator.h"
#include "config/config.h"
#include "model/unit_hooks.h"

namespace switchyard {
namespace {

// A unit at a time: rank 0 never holds more than one unit of all ranks.
void hand_over(Quantity quantity, Trainer& trainer, int num_layers, Communicator& world,
               const TensorSink& sink) {
  const ParameterList all = trainer.parameters();
  ZeroOptimizer& optimizer = trainer.optimizer();
  const bool is_gradient =
      quantity == Quantity::kFirstGradient || quantity == Quantity::kLastGradient;
  const auto read = [&](const Parameter& parameter) {
    return is_gradient ? optimizer.gradient_of(parameter) : optimizer.weight_of(parameter);
  };
  for (int unit = 0; unit <= head_unit(num_layers); ++unit) {
    ParameterList of_unit;
    for (Parameter* parameter : all) {
      // The head's copy of a tied embedding is compared with the embedding.
      const bool is_tied = parameter->copies == Copies::kTied;
      if ((is_tied ? embedding_unit() : parameter->unit) == unit) of_unit.push_back(parameter);
    }
    const GlobalTensors tensors = gather_global_tensors(of_unit, world, read);
    if (world.rank() == 0) sink(quantity, tensors);
  }
}

ParameterGroup group_of(const Parameter& parameter, const ProcessGrid& grid) {
  ParameterGroup group;
  const auto sum_over = [&](const Communicator& communicator) {
    if (communicator.size() > 1) group.summed_over.push_back(communicator.name());
  };
  const bool is_expert = parameter.group == ReplicaGroup::kExpert;
  group.name = is_expert ? "experts" : "dense";
  sum_over(is_expert ? grid.edp() : grid.dp());
  switch (parameter.copies) {
    case Copies::kNone:
      break;
    case Copies::kTensor:
      group.name = "copies over tp";
      if (parameter.is_partial) sum_over(grid.tp());
      break;
    case Copies::kKeyValue:
      group.name = "key/value copies";
      if (parameter.is_partial) sum_over(grid.kv());
      break;
    case Copies::kTied:
      group.name = "tied embedding";
      if (parameter.is_partial) sum_over(grid.tied());
      break;
  }
  return group;
}

// Biases move by counts of the whole stage.
ParameterGroup group_of_biases(const ProcessGrid& grid) {
  ParameterGroup group = {.name = "router biases"};
  if (grid.stage().size() > 1) group.summed_over.push_back(grid.stage().name());
  return group;
}

// By parameter name, on rank 0. Collective.
std::map<std::string, ParameterGroup> parameter_groups(Trainer& trainer, const ProcessGrid& grid) {
  std::string mine;  // lines of: name, group, communicators, with tabs between
  const auto add = [&](const std::string& name, const ParameterGroup& group) {
    mine += fmt::format("{}\t{}\t{}\n", name, group.name, fmt::join(group.summed_over, "\t"));
  };
  for (const Parameter* parameter : trainer.parameters())
    add(parameter->name, group_of(*parameter, grid));
  for (const StateTensor& bias : trainer.state()) add(bias.name, group_of_biases(grid));
  std::map<std::string, ParameterGroup> groups;
  for (const std::string& lines : grid.world().gather_host(mine, 0)) {
    std::istringstream all(lines);
    for (std::string line; std::getline(all, line);) {
      std::istringstream fields(line);
      std::string name, communicator;
      ParameterGroup group;
      std::getline(fields, name, '\t');
      std::getline(fields, group.name, '\t');
      while (std::getline(fields, communicator, '\t')) group.summed_over.push_back(communicator);
      groups[name] = std::move(group);
    }
  }
  return groups;
}

}  // namespace

JobResult run_job(const RunConfig& config, Backend& backend, const ProcessGrid& grid,
                  const Dataset& dataset, const JobOptions& options, const TensorSink& sink) {
  Trainer trainer(config, backend, grid, dataset);
  trainer.set_routing_log(options.routing);
  const auto hand = [&](Quantity quantity) {
    hand_over(quantity, trainer, config.model.num_hidden_layers, grid.world(), sink);
  };
  JobResult result;
  result.groups = parameter_groups(trainer, grid);
  hand(Quantity::kInitialValue);
  while (trainer.step() < options.steps) {
    result.reports.push_back(trainer.train_step());
    if (trainer.step() == 1) hand(Quantity::kFirstGradient);
    if (trainer.step() == options.steps && options.steps > 1) hand(Quantity::kLastGradient);
  }
  if (options.reads_final_values) {
    hand(Quantity::kFinalValue);
    const GlobalTensors biases = gather_global_state(trainer.state(), backend, grid.world());
    if (grid.world().rank() == 0) sink(Quantity::kFinalValue, biases);
  }
  return result;
}

RunConfig one_rank_config(RunConfig config) {
  config.parallelism = {.data_parallel_size = 1};
  config.pipeline = {};
  config.zero_optimization = {};
  config.activation_checkpointing = {};
  config.communication_data_type = ReductionType::kFP32;
  config.train_micro_batch_size_per_gpu.reset();
  resolve(config, 1);
  return config;
}

JobRecord run_on_one_rank(const RunConfig& config, Backend& backend, const Dataset& dataset,
                          const JobOptions& options) {
  SelfCommunicator self("world");
  const ProcessGrid grid(self, GridSizes{}, &backend);
  JobRecord record;
  record.reports = run_job(config, backend, grid, dataset, options,
                           [&](Quantity quantity, const GlobalTensors& tensors) {
                             auto& all = record.tensors[quantity];
                             all.insert(tensors.values.begin(), tensors.values.end());
                           })
                       .reports;
  return record;
}

std::string ParameterGroup::text() const {
  return summed_over.empty() ? name : fmt::format("{} ({})", name, fmt::join(summed_over, ", "));
}

}  // namespace switchyard
