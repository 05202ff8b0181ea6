/* A GPU works while the host waits for something else: for MPI, a socket, a thread. The emulated
   one works inside calls of CUDA only. Whoever blocks elsewhere, and could wait for what a stream
   has to do, calls this before and between. Runs what can run at this moment; returns whether
   anything ran. */
#ifndef CUDA_EMULATOR_PROGRESS_H_
#define CUDA_EMULATOR_PROGRESS_H_

#ifdef __cplusplus
extern "C"
#endif
    int
    cuda_emulator_progress(void);

#endif
