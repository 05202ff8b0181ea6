// ProcessGrid against an enumeration of its own, for every way to factorise a world, and for every
// number of copies of key/value heads.
#pragma once

#include "comm/communicator.h"

namespace switchyard::test {

// Collective over `world`. Failures are Errors, so that it may run on rank threads. Returns the
// number of grids checked.
int check_all_grids(Communicator& world);

}  // namespace switchyard::test
