// Linear: y = x W^T, no bias. W is (outputs, inputs) as in PyTorch.
#pragma once

#include <string>

#include "backend/backend.h"
#include "model/parameter.h"
#include "model/pass.h"

namespace switchyard {

class Linear {
 public:
  struct Saved {
    Tensor x_TK;
  };

  Linear(Backend& backend, std::string name, int64_t outputs, int64_t inputs)
      : backend_(backend), weight_(dense_parameter(std::move(name), {outputs, inputs})) {}

  Tensor forward(Pass& pass, Tensor x_TK, Saved& saved) const;
  // Adds to the weight's gradient, returns dx.
  Tensor backward(Pass& pass, Tensor dy_TN, const Saved& saved);
  // The same, but adds dx to `dx_TK`: for inputs that feed several layers.
  void backward_add(Pass& pass, Tensor dx_TK, Tensor dy_TN, const Saved& saved);

  Parameter& weight() { return weight_; }

 private:
  Backend& backend_;
  Parameter weight_;  // (N, K)
};

}  // namespace switchyard
