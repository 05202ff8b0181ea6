// GlobalTensors: whole tensors on world rank 0, put together from the boxes that all ranks of a
// grid hold. For proofs that compare one grid with another.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "model/parameter.h"

namespace switchyard {

struct GlobalTensors {
  std::map<std::string, std::vector<double>> values = {};  // by parameter name, row-major
  // Largest difference between two ranks that hold the same element, and of which parameter. Copies
  // are computed by the same sums in the same order: it should be 0.
  double copy_difference = 0;
  std::string copy_difference_in = {};
};

// `read` returns this rank's box of a parameter. Collective over `world`; empty on other ranks than
// rank 0. Needs memory for every box of every rank on rank 0.
GlobalTensors gather_global_tensors(
    const ParameterList& parameters, Communicator& world,
    const std::function<std::vector<double>(const Parameter&)>& read);

// The same of what is no parameter, f64 all of it. Waits for the device.
GlobalTensors gather_global_state(const StateList& state, Backend& backend, Communicator& world);

}  // namespace switchyard
