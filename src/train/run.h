// The training job: a run directory, the loop, validation, and the weights at the end.
//
//   RUN/config.json          the resolved configuration: `train RUN/config.json` is the same run
//   RUN/environment.json     version, process grid, ranks, threads, device
//   RUN/metrics.jsonl        one object per step (train/metrics.h)
//   RUN/model.safetensors    the weights when training has finished, before the last validation
#pragma once

#include "backend/backend.h"
#include "comm/process_grid.h"
#include "config/run_config.h"

namespace switchyard {

// Trains as `config` (resolved, nothing unbuilt in it) says. Collective over the grid's world.
// Errors: kStorage when the run directory already holds a run, kData, kNumeric.
void run_training(const RunConfig& config, Backend& backend, const ProcessGrid& grid);

}  // namespace switchyard
