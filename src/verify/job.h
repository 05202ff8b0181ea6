// A training job as a proof needs it: a few steps on some grid, and whole tensors on rank 0.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "data/dataset.h"
#include "model/moe/routing_log.h"
#include "train/global_tensors.h"
#include "train/trainer.h"

namespace switchyard {

// What is read of every parameter, and the final value of router biases. Gradients are sums over
// the global batch, before clipping.
enum class Quantity { kInitialValue, kFirstGradient, kLastGradient, kFinalValue };

// Which mechanism gives a parameter its gradient, on the grid at hand.
struct ParameterGroup {
  std::string name = {};                      // "dense", "experts", "copies over tp", ...
  std::vector<std::string> summed_over = {};  // communicators of more than one rank: "dp", "tp"

  std::string text() const;  // "experts (edp)"
  auto operator<=>(const ParameterGroup&) const = default;
};

struct JobOptions {
  int64_t steps = 1;
  RoutingLog* routing = nullptr;
  bool reads_final_values = true;
};

// Of one quantity, the tensors of one unit of the model after another. Only rank 0 gets any.
using TensorSink = std::function<void(Quantity, const GlobalTensors&)>;

// What a job leaves behind: reports on all ranks, groups by parameter name on rank 0.
struct JobResult {
  std::vector<StepReport> reports;
  std::map<std::string, ParameterGroup> groups;
};

// Takes the steps. Collective over the grid's world. The last gradient is left out when it is the
// first.
JobResult run_job(const RunConfig& config, Backend& backend, const ProcessGrid& grid,
                  const Dataset& dataset, const JobOptions& options, const TensorSink& sink);

// A job on one rank that is over.
struct JobRecord {
  std::vector<StepReport> reports;
  std::map<Quantity, std::map<std::string, std::vector<double>>> tensors;  // by parameter name
};

// The same job on one rank: same sizes, seed, data and batch, nothing cut, no recomputation.
RunConfig one_rank_config(RunConfig config);

// Runs it here and now, with nobody else.
JobRecord run_on_one_rank(const RunConfig& config, Backend& backend, const Dataset& dataset,
                          const JobOptions& options);

}  // namespace switchyard
