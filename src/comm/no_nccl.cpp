// What stands in for NCCL in a build without GPUs.
#include "comm/gpu_communicator.h"

namespace switchyard {

std::unique_ptr<Communicator> make_gpu_communicator(Communicator& world, Backend&) {
  SY_CHECK(false, "{}: this build has no NCCL", world.name());
}

}  // namespace switchyard
