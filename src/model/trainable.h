// What training changes and what it leaves as it is: training.trainable and training.frozen are
// patterns (model/name_pattern.h) over the names that tensors have in files of weights, where each
// expert has its own: "model.layers.11.mlp.experts.3.gate_proj.weight".
//
// Decided on the names of the whole model, which follow from the configuration: every rank comes to
// the same without a word, whatever it holds.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "config/run_config.h"
#include "model/parameter.h"

namespace switchyard {

// Sets Parameter::trainable of what this rank holds, before the optimizer lays it out: of experts
// those that are trained, of anything else all or nothing. `config` is resolved. Errors (kConfig),
// the same on all ranks: a pattern that matches no tensor of the model; nothing left to train.
void select_trainable(const RunConfig& config, Backend& backend, const ParameterList& parameters);

struct ParameterCount {
  int64_t trained = 0, frozen = 0;
};
// Elements of the whole model, each counted once, on any grid.
ParameterCount count_parameters(const RunConfig& config, Backend& backend);

}  // namespace switchyard
