// How many parameters a rank holds and what their training state takes, from the configuration
// alone. Pure functions of a resolved configuration.
#pragma once

#include <cstdint>

#include "config/run_config.h"

namespace switchyard {

struct ParameterCounts {
  int64_t dense = 0;   // replicated over the data-parallel ranks
  int64_t expert = 0;  // replicated over the expert-data-parallel ranks

  int64_t total() const { return dense + expert; }
};

// Of the whole model. Tied embeddings count once.
ParameterCounts parameters_of_model(const RunConfig& config);

// Of one rank of a pipeline stage: its slices, and whole what it does not slice. Where slices are
// uneven (a vocabulary that tensor parallelism does not divide), of a rank with a largest one.
// With tied embeddings the first and the last stage hold a copy each.
ParameterCounts parameters_of_rank(const RunConfig& config, int stage);

// Ranks among which ZeRO shares out the state of dense parameters and of experts.
int dense_replicas(const RunConfig& config);
int expert_replicas(const RunConfig& config);

// Bytes of weights, gradients, master copy and both moments per trained parameter held, with
// `replicas` ranks to share with: w + g + s under ZeRO stage 0, w + g + s / d under 1, w + (g + s)
// / d under 2; in bf16 w = 2, g = 4, s = 12 (master and moments), in f32 4, 4, 8, in f64 8, 8, 16.
// Without padding and buckets. Stage 2 with reduce_once_per_step keeps a full gradient, as stage 1.
double bytes_per_parameter(const RunConfig& config, int replicas);

// Bytes of weights, master copy and moments, which is what a checkpoint stores: per trained
// parameter held by a rank with `replicas` ranks to share with, which is also what an asynchronous
// save copies first.
double saved_bytes_per_parameter(const RunConfig& config, int replicas);
// Of a whole checkpoint's tensors; router biases and headers, a few kilobytes, are left out.
double checkpoint_bytes(const RunConfig& config);

}  // namespace switchyard
