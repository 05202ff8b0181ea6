#include "comm/mpi_runtime.h"

#include <mpi.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "comm/mpi_communicator.h"

// Open MPI's own; null under another MPI.
extern "C" __attribute__((weak)) int ompi_mpi_abort(MPI_Comm comm, int exit_code);

namespace switchyard {

MpiRuntime::MpiRuntime(int& argc, char**& argv) {
  int provided = MPI_THREAD_SINGLE;
  const int code = MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  SY_CHECK(
      code == MPI_SUCCESS && provided >= MPI_THREAD_FUNNELED,
      "MPI does not start, or allows no threads beside it (MPI_THREAD_FUNNELED): code {}, level "
      "{}",
      code, provided);
  world_ = std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, "world");
}

MpiRuntime::~MpiRuntime() {
  world_.reset();
  MPI_Finalize();
}

void MpiRuntime::abort_job(int exit_code) {
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

void MpiRuntime::end_job_together(int exit_code) {
  std::fflush(nullptr);
  MPI_Barrier(MPI_COMM_WORLD);
  if (ompi_mpi_abort != nullptr) {
    while (world_->rank() != 0) pause();  // until rank 0 has stopped the job
    ompi_mpi_abort(MPI_COMM_WORLD, exit_code);
  } else {
    world_.reset();
    MPI_Finalize();
  }
  std::_Exit(exit_code);
}

}  // namespace switchyard
