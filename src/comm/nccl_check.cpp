#include "comm/nccl_check.h"

#include <cuda_runtime.h>

#include "core/error.h"

namespace switchyard::nccl {
namespace {

const char* hint(ncclResult_t result) {
  switch (result) {
    case ncclUnhandledCudaError:
      return "; a call of CUDA failed inside NCCL: NCCL_DEBUG=INFO names it";
    case ncclSystemError:
      return "; the machine refused something: NCCL_DEBUG=INFO says what. Often the wrong network "
             "(NCCL_SOCKET_IFNAME) or too little shared memory (df /dev/shm)";
    case ncclRemoteError:
      return "; another rank has ended, or the network to it has: its own message says why";
    default:
      return "";
  }
}

}  // namespace

void check(ncclResult_t result, const std::string& who, const char* call, const char* file,
           int line) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  int device = -1;  // if CUDA does not say
  cudaGetDevice(&device);
  fail(ExitCode::kInternal, file, line,
       fmt::format("{}, CUDA device {}: {}: {} ({}){}", who, device, call,
                   ncclGetErrorString(result), ncclGetLastError(nullptr), hint(result)));
}

}  // namespace switchyard::nccl
