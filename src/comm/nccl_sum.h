// The sums of reductions, on the device.
#pragma once

#include <cuda_runtime.h>

#include "core/tensor.h"

namespace switchyard {

// What the ranks of a group have for this one, to be added: `mine` is this rank's own, those of the
// others lie in `received`, rank after rank, `stride_bytes` apart (this rank's place is not read).
struct RankContributions {
  Tensor mine;
  const std::byte* received = nullptr;
  int64_t stride_bytes = 0;
  int rank = 0, size = 1;
};

// out = the sum of all, added in the order of ranks, as sum_host() does (host_memory.h): the same
// bits. `out` may be `mine`.
void sum_ranks(cudaStream_t stream, Tensor out, const RankContributions& contributions);

}  // namespace switchyard
