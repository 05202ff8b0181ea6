// Programs of ranks with a bug of ordering between NCCL and other work if `planted`: found by a
// wrong result in lazy mode, and by ThreadSanitizer in every one.
#pragma once

#include "ranks.h"

namespace cuda_emulator::test {

inline void synchronize(cudaStream_t stream) { EXPECT_SUCCESS(cudaStreamSynchronize(stream)); }

// Rank 0 sees what rank 1 had not computed yet.
inline void collective_waits_for_its_input(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("dp");
  cudaStream_t compute = make_stream(), stream = make_stream();
  cudaEvent_t ready = make_event();
  float *x = device_floats(), *in = pinned_floats(1), *out = pinned_floats(0);
  upload(x, in, compute);
  synchronize(compute);
  scale(x, 2, compute);
  EXPECT_SUCCESS(cudaEventRecord(ready, compute));
  if (!planted) EXPECT_SUCCESS(cudaStreamWaitEvent(stream, ready, 0));
  EXPECT_NCCL(ncclAllReduce(x, x, kCount, ncclFloat32, ncclSum, comm, stream));
  download(out, x, stream);
  synchronize(stream);
  const bool sum_is_4 = all_equal(out, 4);
  EXPECT(sum_is_4);
}

inline void result_is_waited_for(Rank& rank, bool planted) {
  ncclComm_t comm = rank.join("dp");
  cudaStream_t compute = make_stream(), stream = make_stream();
  cudaEvent_t done = make_event();
  float *x = device_floats(), *in = pinned_floats(1), *out = pinned_floats(0);
  upload(x, in, stream);
  synchronize(stream);
  EXPECT_NCCL(ncclAllReduce(x, x, kCount, ncclFloat32, ncclSum, comm, stream));
  EXPECT_SUCCESS(cudaEventRecord(done, stream));
  if (!planted) EXPECT_SUCCESS(cudaStreamWaitEvent(compute, done, 0));
  scale(x, 2, compute);
  download(out, x, compute);
  synchronize(compute);
  const bool result_is_4 = all_equal(out, 4);
  EXPECT(result_is_4);
  synchronize(stream);
}

}  // namespace cuda_emulator::test
