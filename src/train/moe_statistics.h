// MoeStatistics: how the routers of a model did in one step, layer by layer, from the sums that all
// ranks leave behind.
#pragma once

#include <vector>

#include "comm/communicator.h"
#include "config/run_config.h"
#include "model/stage.h"

namespace switchyard {

struct MoeLayerStatistics {
  int layer = 0;                         // of the model, from 0
  double expert_load_max_over_mean = 0;  // of kept choices; 1 is perfect balance
  // Mean over tokens of the entropy, in nats, of the probabilities that the balance loss sees:
  // 0 when the router is certain, log(num_experts) when it does not care.
  double router_entropy = 0;
  int dead_experts = 0;         // that served no token in the step
  double dropped_fraction = 0;  // of all (token, expert) choices
};

struct MoeStatistics {
  double load_balancing_loss = 0, z_loss = 0;  // unweighted, mean over MoE layers
  double expert_load_max_over_mean = 0;        // of the most uneven layer
  double dropped_fraction = 0;                 // mean over MoE layers
  std::vector<MoeLayerStatistics> layers = {};
};

// Of one step of `config`. `values`: this rank's sums; collective over `world`, the same result on
// all ranks. Without MoE layers: all zero.
MoeStatistics moe_statistics(const RunConfig& config, const StatisticsBuffer::Values& values,
                             Communicator& world);

}  // namespace switchyard
