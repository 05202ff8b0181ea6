// Embedding: token ids to rows of a table.
#pragma once

#include "backend/backend.h"
#include "model/parameter.h"
#include "model/pass.h"

namespace switchyard {

class Embedding {
 public:
  Embedding(Backend& backend, int64_t vocab_size, int64_t model_width)
      : backend_(backend),
        table_(dense_parameter("model.embed_tokens.weight", {vocab_size, model_width})) {}

  Tensor forward(Pass& pass) const;  // (T, D) from pass.batch.token_ids
  void backward(Pass& pass, Tensor dy_TD);

  Parameter& table() { return table_; }

 private:
  Backend& backend_;
  Parameter table_;  // (V, D)
};

}  // namespace switchyard
