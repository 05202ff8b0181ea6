// The communicator of ranks that compute on GPUs: carries tensors between their memories, and host
// values by the communicator that it is made from. NCCL's (nccl_communicator.h), or what stands in
// for it in a build without (no_nccl.cpp).
#pragma once

#include <memory>

#include "backend/backend.h"
#include "comm/communicator.h"

namespace switchyard {

// The ranks of `world`; `gpu` is a CudaBackend. Both outlive it. Collective.
std::unique_ptr<Communicator> make_gpu_communicator(Communicator& world, Backend& gpu);

}  // namespace switchyard
