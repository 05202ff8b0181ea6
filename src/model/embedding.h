// Embedding: token ids to rows of a table. Tensor-parallel ranks hold a slice of the vocabulary
// each; the rows they do not hold are zero, and the sum over ranks is the lookup.
#pragma once

#include "backend/backend.h"
#include "model/parameter.h"
#include "model/pass.h"
#include "model/tensor_parallel.h"

namespace switchyard {

inline constexpr const char* kEmbeddingName = "model.embed_tokens.weight";

// The slice of a (vocabulary, model width) matrix for tp rank `rank` of `size`. Ranks hold the same
// number of rows, the last ones fewer; the memory they keep has room for as many (padding).
Parameter vocabulary_parallel(std::string name, int64_t vocab_size, int64_t model_width,
                              const TensorParallel& tp);

class Embedding {
 public:
  Embedding(Backend& backend, const TensorParallel& tp, int64_t vocab_size, int64_t model_width)
      : backend_(backend),
        tp_(tp),
        table_(vocabulary_parallel(kEmbeddingName, vocab_size, model_width, tp)) {}

  Tensor forward(Pass& pass) const;  // a hidden state from pass.batch.token_ids
  void backward(Pass& pass, Tensor dy_TD);

  Parameter& table() { return table_; }

 private:
  Backend& backend_;
  const TensorParallel& tp_;
  Parameter table_;  // (V, D)
};

}  // namespace switchyard
