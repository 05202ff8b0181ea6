/* What the emulated GPU was asked to do by this process, counted: exact, and the same at each run.
   Operations count when they are issued, those of a graph at each launch. Host waits that poll
   (cudaEventQuery, cudaStreamQuery) count once for each point of a stream that was not reached at
   the first question; in the mode "lazy" this is every point that is asked for. */
#ifndef CUDA_EMULATOR_COUNTERS_H_
#define CUDA_EMULATOR_COUNTERS_H_

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum cuda_emulator_kind {
  CUDA_EMULATOR_KERNEL, /* what: the kernel; amount: blocks */
  CUDA_EMULATOR_COPY,   /* what: "cudaMemcpyAsync host to device", ..., "cudaMemsetAsync"; amount:
                           bytes */
  CUDA_EMULATOR_BLAS,   /* what: the function of cuBLAS; amount: FLOPs */
  CUDA_EMULATOR_COLLECTIVE, /* what: the function of NCCL; amount: bytes */
  CUDA_EMULATOR_HOST_WAIT,  /* what: the function of CUDA that waited; amount: 0 */
  CUDA_EMULATOR_ALLOCATION  /* what: the function of CUDA; amount: bytes */
};

struct cuda_emulator_count {
  const char* what; /* lives as long as the process */
  unsigned long long calls;
  unsigned long long amount;
};

/* Fills `counts` with up to `capacity` entries of one kind, ordered by `what`; returns how many
   there are. */
size_t cuda_emulator_counts(enum cuda_emulator_kind kind, struct cuda_emulator_count* counts,
                            size_t capacity);
void cuda_emulator_reset_counts(void);

#ifdef __cplusplus
}
#endif
#endif
