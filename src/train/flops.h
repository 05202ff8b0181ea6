// FLOPs of the model's mathematics, for `tflops` and `mfu`: what the formulas ask for, not what an
// implementation happens to execute. A multiply-add counts 2.
#pragma once

#include "config/run_config.h"

namespace switchyard {

// Parameters that multiply each token: all matrices, of the experts only the k chosen.
int64_t active_matmul_parameters(const RunConfig& config);

// Forward and backward of one token: 6 per active parameter, plus causal attention, whose token
// sees S/2 others on average: 6 * S * H * C per layer.
double training_flops_per_token(const RunConfig& config);

}  // namespace switchyard
