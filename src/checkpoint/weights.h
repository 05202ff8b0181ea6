// Weights on disk: all parameters and the state of a model in one safetensors file, under Hugging
// Face style names, one tensor per expert ("model.layers.0.mlp.experts.3.down_proj.weight"), with
// the dtype they have in the model. The file knows nothing of the grid that wrote it: equal weights
// make equal bytes.
#pragma once

#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "model/parameter.h"

namespace switchyard {

// Collective: world rank 0 writes `path`, tensor by tensor, so that it never holds more than one of
// them. Every element comes from the first of the ranks that hold it. Between the ranks of `world`
// `parameters` and `state` are the whole model.
void save_weights(const std::string& path, const ParameterList& parameters, const StateList& state,
                  Backend& backend, Communicator& world);

// Reads into Parameter::weight (bound by the caller) what this rank holds of each parameter, and
// into `state`. Errors (kData): a tensor is missing, or has another shape or dtype.
void load_weights(const std::string& path, const ParameterList& parameters, const StateList& state,
                  Backend& backend);

// Allocates Parameter::weight of each parameter, for models that do not train. The caller keeps the
// buffers as long as the model.
std::vector<Buffer> allocate_weights(const ParameterList& parameters, Backend& backend, DType real);

}  // namespace switchyard
