// ReplicaCheck: finds memory that changed by itself, by comparing digests of what several ranks
// hold: weights over dp or edp and their copies over tp, router biases, and without ZeRO the
// moments and master weights too. Ranks compute all of these alike, bit by bit; when they differ,
// the memory or the arithmetic of one of them failed.
//
// What one rank alone holds has nothing to be compared with: a slice of ZeRO's moments and master
// weights. A weight that its ZeRO owner spoils is the same everywhere after the next step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/held_tensor.h"
#include "checkpoint/tensor_digests.h"
#include "comm/communicator.h"
#include "model/parameter.h"
#include "optim/zero_optimizer.h"

namespace switchyard {

class ReplicaCheck {
 public:
  // Collective over `world`. References are kept, and what `parameters` and `state` point to.
  ReplicaCheck(Backend& backend, Communicator& world, const ParameterList& parameters,
               const StateList& state, ZeroOptimizer& optimizer);

  // Between steps; collective. The same on all ranks; empty: all copies are equal.
  std::vector<ReplicaDifference> differences();
  // CollectiveError (kInternal) that names tensors and ranks when copies differ. What has been
  // saved before is older than the fault, if it was checked; what is in memory must not be saved.
  void check(int64_t step);

  const std::vector<HeldTensor>& compared() const { return compared_; }

 private:
  Backend& backend_;
  Communicator& world_;
  ZeroOptimizer& optimizer_;
  std::vector<HeldTensor> compared_;  // what other ranks hold too
  Buffer digests_;                    // of these
  std::vector<Region> regions_;       // that several ranks hold; indices into their compared_
};

}  // namespace switchyard
