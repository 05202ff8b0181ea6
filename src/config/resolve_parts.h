// The parts of resolve() (report.h) that have files of their own. Each reports what does not fit
// and leaves out checks of values already found wrong.
#pragma once

#include "config/report.h"
#include "config/run_config.h"

namespace switchyard {

// False when the grid does not fit the ranks: then nothing can be said of what is cut over it.
bool resolve_dense_grid(ParallelismConfig& parallelism, int num_ranks, Report& report);
void resolve_expert_grid(ParallelismConfig& parallelism, const MoeConfig& moe, Report& report);

// Whether heads and widths can be cut over the tensor-parallel ranks. Of a resolved model and MoE.
void check_tensor_parallel(const RunConfig& config, Report& report);

// Of a resolved model and MoE.
void resolve_pipeline(RunConfig& config, Report& report);

void resolve_moe(RunConfig& config, Report& report);

}  // namespace switchyard
