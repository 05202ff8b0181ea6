// `switchyard prepare`: text to token files, with a progress bar.
#pragma once

#include "data/prepare.h"

namespace switchyard {

int run_prepare(const PrepareOptions& options);

}  // namespace switchyard
