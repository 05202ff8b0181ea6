// LmHead: hidden states to logits, and the loss: cross-entropy, a mean over all targets of the
// *global* batch that count. Its weight is its own, or the embedding's (`tie_word_embeddings`).
#pragma once

#include <optional>

#include "backend/backend.h"
#include "model/parameter.h"
#include "model/pass.h"

namespace switchyard {

class LmHead {
 public:
  struct Saved {
    Tensor x_TD;
    Tensor dlogits_TV;  // gradient of the mean loss; forward() computes it in place of the logits
  };

  // `tied`: the embedding's table, or nullptr.
  LmHead(Backend& backend, int64_t vocab_size, int64_t model_width, Parameter* tied);

  // Adds this micro-batch's loss to pass.statistics.
  void forward(Pass& pass, Tensor x_TD, Saved& saved) const;
  Tensor backward(Pass& pass, const Saved& saved);
  // (T, V), in pass.activations.
  Tensor logits(Pass& pass, Tensor x_TD) const;

  void append_parameters(ParameterList& list);  // nothing when tied

 private:
  Parameter& weight() { return tied_ != nullptr ? *tied_ : *own_; }
  const Parameter& weight() const { return tied_ != nullptr ? *tied_ : *own_; }

  Backend& backend_;
  Parameter* tied_;
  std::optional<Parameter> own_;  // (V, D)
};

}  // namespace switchyard
