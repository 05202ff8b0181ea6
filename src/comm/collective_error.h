// CollectiveError: an error that every rank throws at the same point, so that the job can end in
// order (one message, one exit code, nobody left waiting). Any other error is one rank's own, and
// main() takes the whole job down at once.
#pragma once

#include <functional>
#include <string>

#include "comm/communicator.h"
#include "core/error.h"

namespace switchyard {

class CollectiveError : public Error {
 public:
  using Error::Error;
};

// Runs `work` on every rank of `world`. If it throws Error anywhere, all ranks throw
// CollectiveError with the message of the lowest rank that failed. Collective.
void agree(Communicator& world, const std::function<void()>& work);

}  // namespace switchyard
