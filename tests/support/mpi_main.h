// The main() of tests that run under mpirun (switchyard_test(... RANKS n)).
//
// All ranks run the same test cases. A failed assertion or an exception on any rank prints the rank
// and the message, and ends the whole job at once: the other ranks would wait for it for ever.
#pragma once

#include "comm/communicator.h"

namespace switchyard::test {

// The ranks of this mpirun.
Communicator& mpi_world();

}  // namespace switchyard::test
