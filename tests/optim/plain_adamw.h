// PlainAdamW: AdamW (arXiv 1711.05101) with clipping over whole tensors, one element after another,
// in doubles, with gradients that anybody can compute: what the optimizer is compared with.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "optim/declared_parameters.h"

namespace switchyard::test {

constexpr double kRate = 0.02, kBeta1 = 0.8, kBeta2 = 0.95, kEps = 1e-6, kDecay = 0.3;
constexpr double kInitializerRange = 0.3;
constexpr uint64_t kSeed = 77;
constexpr int kParts = 12;  // whose sum is the gradient; ranks and micro-batches share them

// Part `part` of the gradient of element `index` of the tensor `name` at `step`: multiples of 1/8
// below 1, so that the sum of all parts is exact in any order, even in bf16.
double gradient_part(const std::string& name, int64_t index, int step, int part);

class PlainAdamW {
 public:
  // `real` is the type that weights begin in.
  PlainAdamW(const std::vector<Declaration>& declarations, DType real);

  // Returns the gradient norm. max_norm 0: no clipping.
  double step(int number, double max_norm);

  struct State {
    std::vector<double> weight, gradient, m, v;
    double decay = 0;
    int64_t row_numel = 1;
    Declaration declaration;
  };
  const State& state(const std::string& name) const { return states_.at(name); }

 private:
  std::map<std::string, State> states_;
};

}  // namespace switchyard::test
