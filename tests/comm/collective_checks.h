// Every collective against its closed form, with different data on every rank. One body for all
// kinds of communicators: failures are Errors, so that it may run on rank threads.
#pragma once

#include "comm/communicator.h"

namespace switchyard::test {

// Collective over `group`, of any size. Waits with `backend`, whether the group uses it or not.
void check_collectives(Communicator& group, Backend& backend);

// The same in groups that `world` is split into: even and odd ranks (in reverse order), then
// halves of these.
void check_collectives_of_subgroups(Communicator& world, Backend& backend);

}  // namespace switchyard::test
