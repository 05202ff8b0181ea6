// Training jobs on the deferred backend, and what was found out about them.
#pragma once

#include <string>
#include <vector>

#include "deferred/collective_order.h"
#include "deferred/timeline.h"
#include "support/training_job.h"

namespace switchyard::test {

struct DeferredOptions {
  RunOrder order = {};  // ranks add their number to the seed
  // Plants a mistake: waits for this communicator are left out.
  std::string forgotten = {};
};

struct DeferredRank {
  JobResult result;
  std::vector<std::string> reports;  // "rank 1: ..."
  std::vector<IssuedCollective> issued;
};

// The job on this rank; collective. `world` blocks.
DeferredRank run_deferred_rank(const RunConfig& config, Communicator& world,
                               const JobOptions& options, const DeferredOptions& deferred);

struct DeferredJob {
  JobResult result;        // rank 0's
  std::string reports;     // of all ranks, a line each
  std::string standstill;  // collective_order.h
};

// The same with `num_ranks` threads.
DeferredJob run_deferred_job(const RunConfig& config, int num_ranks, const JobOptions& options,
                             const DeferredOptions& deferred);

}  // namespace switchyard::test
