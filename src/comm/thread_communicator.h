// ThreadCommunicator: ranks are threads of one process. For tests only: layouts without mpirun, and
// ThreadSanitizer over everything between ranks.
//
// Ranks that call different things, a rank's failure and deadlocks become errors on all ranks
// instead of hangs.
#pragma once

#include <functional>

#include "comm/communicator.h"

namespace switchyard {

// Runs `body` on `num_ranks` threads, each with its own world communicator. When a rank throws,
// blocked collectives of the others throw too, all threads end, and the first exception is thrown
// here as an Error of the same exit code, with the rank in its message. A wait during which no rank
// enters a collective for `deadline_s` is a deadlock.
void run_ranks(int num_ranks, const std::function<void(Communicator& world)>& body,
               double deadline_s = 60);

}  // namespace switchyard
