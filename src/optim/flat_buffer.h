// FlatBuffer: the parameters of one replica group laid end to end in one allocation per kind
// (weights, gradients, first and second moments), so that a reduction, a norm or an update is one
// operation on one tensor. Owns the memory that Parameter::weight and ::gradient view.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "model/parameter.h"

namespace switchyard {

class FlatBuffer {
 public:
  // Lays out those of `parameters` that belong to `group`, in their order, and points their views
  // here. Weights are initialised by name and global index (the same on every grid); gradients and
  // moments are zero.
  FlatBuffer(Backend& backend, const ParameterList& parameters, ReplicaGroup group, DType real,
             double initializer_range, uint64_t seed);

  // All elements, padding included (padding is zero and stays zero).
  Tensor weights() const { return weights_; }
  Tensor gradients() const { return gradients_; }

  // The part of one parameter in each of the four.
  struct Range {
    Tensor weight, gradient, first_moment, second_moment;  // flat
    bool weight_decay;
  };
  const std::vector<Range>& ranges() const { return ranges_; }

  int64_t num_elements() const { return weights_.numel(); }

 private:
  Buffer memory_;
  Tensor weights_, gradients_;
  std::vector<Range> ranges_;
};

}  // namespace switchyard
