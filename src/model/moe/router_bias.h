// RouterBias: balancing without a loss (arXiv 2408.15664). Each expert has a bias that is added to
// its score when experts are chosen, and not in their weights: no gradient, no optimizer. After
// each step it moves by a fixed rate towards even load:
//   bias_e += rate * sign(mean count - count_e)
// over the choices of the whole global batch, before drops. Every rank of a stage holds the same
// bias.
#pragma once

#include <string>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "model/parameter.h"

namespace switchyard {

class RouterBias {
 public:
  // All zero at first. `stage`: the ranks that share the global micro-batch; kept by reference.
  RouterBias(Backend& backend, Communicator& stage, std::string name, int num_experts, double rate);

  Tensor bias_E() const { return bias_E_; }  // f64
  StateTensor state() const { return {name_, bias_E_}; }
  // Counts choices of tokens that this rank owns: once for each micro-batch of a step.
  void count(Queue queue, Tensor expert_TA) const;
  // At the end of the step; collective over the stage. Nothing when the step is skipped
  // (StepScalar::kSkipStep).
  void update(Queue queue, Tensor scalars) const;

 private:
  Backend& backend_;
  Communicator& stage_;
  std::string name_;
  double rate_;
  Buffer memory_;
  Tensor bias_E_, count_E1_;
};

}  // namespace switchyard
