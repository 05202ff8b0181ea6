// DeviceOfRank: what this rank computes on, a GPU or the cores that it may run on, and the
// communicator that carries tensors between such memories.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "config/run_config.h"

namespace switchyard {

class DeviceOfRank {
 public:
  // Chooses as device_choice.h says, writes the choice into `config.device`, and logs it. `world`
  // is of host memory, and outlives this. `num_threads`: of a CPU; 0: as many as cores. Collective;
  // throws CollectiveError.
  DeviceOfRank(RunConfig& config, int num_threads, Communicator& world);

  Backend& backend() const { return *backend_; }
  // The same ranks as in the constructor.
  Communicator& world() const { return of_gpus_ ? *of_gpus_ : world_; }

 private:
  Communicator& world_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Communicator> of_gpus_;
};

}  // namespace switchyard
