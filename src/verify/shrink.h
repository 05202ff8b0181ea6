// shrink(): the smallest job that still exercises what a configuration exercises on its grid, so
// that a proof takes seconds.
//
// Kept: the grid and every divisibility; the relation of heads to key/value heads and both to tp;
// dense and MoE layers in each piece of the pipeline, empty and uneven pieces; more experts than a
// token chooses, groups of experts; whether tp divides the vocabulary; accumulation, and whether pp
// divides it; every choice that is not a size. Reduced: layers, widths, heads, experts, sequence
// and batch, and vocabularies of more than a thousand tokens (real tokens do not fit these then).
// With training.trainable or training.frozen, which name layers and experts, these all stay.
#pragma once

#include <string>
#include <vector>

#include "config/run_config.h"

namespace switchyard {

// Of a resolved configuration; resolved for the same ranks.
RunConfig shrink(RunConfig config);

// "model.hidden_size 1024 -> 32": each key whose value differs.
std::vector<std::string> changes(const RunConfig& before, const RunConfig& after);

}  // namespace switchyard
