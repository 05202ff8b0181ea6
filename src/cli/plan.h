// `switchyard plan`: what a job would be, printed without starting it.
#pragma once

#include <optional>

#include "cli/train.h"
#include "plan/checkpoint_interval.h"

namespace switchyard {

struct PlanOptions {
  ConfigOptions config;
  int num_ranks = 1;
  FailureRates failures;
  std::optional<double> save_s, persist_s;  // instead of those that follow from the speeds
  SaveSpeeds speeds;
};

int run_plan(const PlanOptions& options);

}  // namespace switchyard
