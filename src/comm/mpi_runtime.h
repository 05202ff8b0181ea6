// MpiRuntime: MPI for as long as it lives, the world communicator, and the two ways a job ends
// before its time.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace switchyard {

class MpiRuntime {
 public:
  MpiRuntime(int& argc, char**& argv);
  ~MpiRuntime();  // MPI_Finalize: all ranks must come
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  Communicator& world() { return *world_; }

  // One rank's own failure: takes the whole job down at once with this exit code, because a rank
  // that dies alone leaves the others waiting for ever.
  [[noreturn]] void abort_job(int exit_code);

  // All ranks end, at the same point, with this exit code (a configuration error, say, printed once
  // by rank 0), which mpirun returns.
  //
  // mpirun prints a banner about failed ranks when one returns non-zero after MPI_Finalize, and so
  // does MPI_Abort. The function of Open MPI that MPI_Abort calls after printing is silent. All
  // output is flushed and all ranks have come before rank 0 calls it, so nothing is lost; if all
  // called it at once, mpirun would sometimes warn of ranks that are gone while it answers them.
  // Under an MPI without this function ranks finalize and exit.
  [[noreturn]] void end_job_together(int exit_code);

 private:
  std::unique_ptr<Communicator> world_;
};

}  // namespace switchyard
