// A GPU goes on while its host waits for MPI, which the project does by asking MPI_Test again and
// again (comm/mpi_work.cpp). In the emulated build this one stands before MPI's own: now and then,
// as long as the answer is no, the emulated device goes on.
#include <mpi.h>

#include "cuda_emulator/progress.h"

int MPI_Test(MPI_Request* request, int* is_done, MPI_Status* status) {
  constexpr int kPatience = 64;  // a GPU may be slow: what waits in lazy mode waits a little longer
  thread_local int refusals = 0;
  const int result = PMPI_Test(request, is_done, status);
  if (*is_done != 0)
    refusals = 0;
  else if (++refusals % kPatience == 0)
    cuda_emulator_progress();
  return result;
}
