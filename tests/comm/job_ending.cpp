// A job that ends before its time; check_job_ending.cmake runs it under mpirun.
//   together CODE   all ranks end with this code; rank 0 has one message
//   abort CODE      the last rank aborts the job while the others wait for it
//   return          an ordinary end
#include <cstdio>
#include <cstdlib>
#include <string>

#include "comm/mpi_runtime.h"

int main(int argc, char** argv) {
  switchyard::MpiRuntime mpi(argc, argv);
  const switchyard::Communicator& world = mpi.world();
  const std::string ending = argc > 1 ? argv[1] : "return";
  const int exit_code = argc > 2 ? std::atoi(argv[2]) : 0;
  if (ending == "together") {
    if (world.rank() == 0) {
      std::printf("message on stdout");  // without a newline: only a flush brings it out
      std::fprintf(stderr, "message on stderr\n");
    }
    mpi.end_job_together(exit_code);
  }
  if (ending == "abort") {
    if (world.rank() == world.size() - 1) {
      std::fprintf(stderr, "message on stderr\n");
      mpi.abort_job(exit_code);
    }
    mpi.world().barrier();
  }
  return 0;
}
