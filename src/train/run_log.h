// What a run says at its beginning and end, for people. Rank 0 only.
#pragma once

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"
#include "data/dataset.h"
#include "model/trainable.h"
#include "optim/zero_optimizer.h"
#include "train/trainer.h"

namespace switchyard {

void log_start(const RunConfig& config, Backend& backend, const ProcessGrid& grid,
               const Dataset& dataset, const ParameterCount& count);
// Of rank 0; stages of a pipeline and ranks with more experts differ.
void log_memory(const RunConfig& config, const ProcessGrid& grid, const ZeroOptimizer& optimizer);
// After training: bits per byte, beside the baselines if they are wanted.
void log_validation(const RunConfig& config, const Dataset& dataset,
                    const ValidationReport& report);

}  // namespace switchyard
