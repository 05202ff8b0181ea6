// WeightGather: hands the updated slices of the weights to all ranks that share a group (stages 1
// and 2), bucket by bucket in the order of units, while the next forward pass begins.
#pragma once

#include <deque>
#include <vector>

#include "backend/backend.h"
#include "config/run_config.h"
#include "optim/flat_buffer.h"

namespace switchyard {

class WeightGather {
 public:
  WeightGather(Backend& backend, const RunConfig& config, std::vector<FlatBuffer>& groups);

  void start();
  // The weights of the unit, of all units, may be read.
  void finish(int unit);
  void finish_all();

 private:
  struct Pending {
    int unit = 0;
    BucketPlace place;
    Event event;
  };
  void finish(const Pending& pending);

  Backend& backend_;
  BucketsByUnit units_;
  bool is_needed_, overlaps_;
  std::deque<Pending> pending_;
};

}  // namespace switchyard
