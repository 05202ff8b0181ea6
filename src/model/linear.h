// Linear: y = x W^T, no bias. W is (outputs, inputs) as in PyTorch, whole or a tensor-parallel
// slice: of its outputs (column-parallel: y is a slice of columns) or of its inputs (row-parallel:
// x is a slice of columns, y a partial sum). The sums over ranks are the caller's
// (model/tensor_parallel.h): several layers share one.
#pragma once

#include <utility>

#include "backend/backend.h"
#include "model/parameter.h"
#include "model/pass.h"

namespace switchyard {

// Slices of (outputs, inputs) for tp rank `rank` of `size`.
Parameter column_parallel(std::string name, int64_t outputs, int64_t inputs, int rank, int size);
Parameter row_parallel(std::string name, int64_t outputs, int64_t inputs, int rank, int size);

class Linear {
 public:
  struct Saved {
    Tensor x_TK;
  };

  Linear(Backend& backend, Parameter weight_NK)
      : backend_(backend), weight_(std::move(weight_NK)) {}

  Tensor forward(Pass& pass, Tensor x_TK, Saved& saved) const;
  void forward_into(Pass& pass, Tensor y_TN, Tensor x_TK, Saved& saved) const;
  // Adds to the weight's gradient, returns dx.
  Tensor backward(Pass& pass, Tensor dy_TN, const Saved& saved);
  void backward_into(Pass& pass, Tensor dx_TK, Tensor dy_TN, const Saved& saved);
  // Adds dx to `dx_TK`: for inputs that feed several layers.
  void backward_add(Pass& pass, Tensor dx_TK, Tensor dy_TN, const Saved& saved);

  Parameter& weight() { return weight_; }

 private:
  Backend& backend_;
  Parameter weight_;  // (N, K)
};

}  // namespace switchyard
