// A data set of random tokens, for commands that need no text: the same on every rank. Its files
// are temporary, and gone as soon as they are mapped.
#pragma once

#include "data/dataset.h"

namespace switchyard {

// Enough for a step of a resolved configuration; later steps go on into further epochs.
Dataset random_dataset(const RunConfig& config);

}  // namespace switchyard
