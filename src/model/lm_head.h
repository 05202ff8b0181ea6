// LmHead: hidden states to logits, and the loss: cross-entropy, a mean over all targets of the
// *global* batch that count. Its weight is its own, or the embedding's (`tie_word_embeddings`): the
// same Parameter when this rank has the embedding too, else a copy of it on the last stage, and the
// gradients of the two are summed.
//
// Vocabulary-parallel: a rank computes the logits of its slice of the vocabulary for all tokens;
// three numbers per token and rank make the loss and the gradient whole. No rank holds all logits.
#pragma once

#include <optional>

#include "backend/backend.h"
#include "model/parameter.h"
#include "model/pass.h"
#include "model/tensor_parallel.h"

namespace switchyard {

class LmHead {
 public:
  struct Saved {
    Tensor x_TD;        // of all tokens
    Tensor dlogits_TV;  // gradient of the mean loss; forward() computes it in place of the logits
  };

  // `weight` (V, D): its own; or `tied`, the embedding's table.
  LmHead(Backend& backend, const TensorParallel& tp, Parameter weight)
      : backend_(backend), tp_(tp), own_(std::move(weight)) {}
  LmHead(Backend& backend, const TensorParallel& tp, Parameter* tied)
      : backend_(backend), tp_(tp), tied_(tied) {}

  // Adds this micro-batch's loss to pass.statistics: that of the rows this rank owns.
  void forward(Pass& pass, Tensor x_TD, Saved& saved) const;
  Tensor backward(Pass& pass, const Saved& saved);
  // (T, V) of this rank's slice of the vocabulary, in pass.activations.
  Tensor logits(Pass& pass, Tensor x_TD) const;

  void append_parameters(ParameterList& list);  // nothing when tied

 private:
  Tensor logits_of_all(Pass& pass, Tensor all_TD) const;
  Parameter& weight() { return tied_ != nullptr ? *tied_ : *own_; }
  const Parameter& weight() const { return tied_ != nullptr ? *tied_ : *own_; }

  Backend& backend_;
  const TensorParallel& tp_;
  Parameter* tied_ = nullptr;
  std::optional<Parameter> own_;  // (V, D)
};

}  // namespace switchyard
