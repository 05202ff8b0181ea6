#include "checkpoint/manifest.h"

namespace switchyard {

std::string tensor_key(TensorRole role, const std::string& name) {
  switch (role) {
    case TensorRole::kParam:
      return name;
    case TensorRole::kMaster:
      return "master/" + name;
    case TensorRole::kExpAvg:
      return "exp_avg/" + name;
    case TensorRole::kExpAvgSq:
      return "exp_avg_sq/" + name;
    case TensorRole::kState:
      return "state/" + name;
  }
  return name;
}

}  // namespace switchyard
