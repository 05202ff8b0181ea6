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

// The same without gradients: what an asynchronous save copies to host memory first.
double saved_bytes_per_parameter(const RunConfig& config, int replicas);

// Bytes of the tensors of a checkpoint: every element of the training state once, whatever the
// layout. Exact, if every parameter is trained.
struct CheckpointBytes {
  int64_t weights = 0, masters = 0, moments = 0;
  int64_t state = 0;  // router biases

  int64_t total() const { return weights + masters + moments + state; }
};
CheckpointBytes checkpoint_bytes(const RunConfig& config);

// What all ranks of a pipeline stage hold of it together, copies included: the host memory of their
// asynchronous saves. Exact likewise.
int64_t held_bytes_of_stage(const RunConfig& config, int stage);
// Of the rank that holds most; a little less than the truth, which has padding between slices.
double held_bytes_of_largest_rank(const RunConfig& config);

}  // namespace switchyard
