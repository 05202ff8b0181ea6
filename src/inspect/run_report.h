// `switchyard inspect RUN`: the checkpoints of a run, what is left over, how its last attempt ended
// and where its time went.
#pragma once

#include <string>

#include "inspect/run_contents.h"

namespace switchyard {

std::string run_text(const RunContents& contents);
// What is wrong with LATEST, as a line; "" if nothing is.
std::string latest_text(const RunContents& contents);

// "process 4711 on node7 since 2026-01-31T12:00:00Z"
std::string holder_text(const LockHolder& holder);

}  // namespace switchyard
