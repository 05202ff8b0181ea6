#include "model/embedding.h"

#include <utility>

#include "backend/ops.h"
#include "model/weight_gradients.h"

namespace switchyard {

Parameter vocabulary_parallel(std::string name, int64_t vocab_size, int64_t model_width,
                              const TensorParallel& tp) {
  return sliced_parameter(std::move(name), {vocab_size, model_width}, 0, tp.rank(), tp.size());
}

Tensor Embedding::forward(Pass& pass) const {
  const int64_t rows = tp_.hidden_rows(pass.batch.num_tokens());
  Tensor y_TD = pass.activations.allocate(table_.weight.dtype(), {rows, table_.shape[1]});
  Arena::Scope scope(pass.scratch);
  const Tensor partial_TD = tp_.partial_sums(pass, pass.scratch, y_TD);
  backend_.ops().embedding_forward(pass.queue, partial_TD, table_.weight, pass.batch.token_ids,
                                   table_.offset[0], table_.global_shape[0]);
  tp_.reduce(pass, y_TD, partial_TD);
  return y_TD;
}

void Embedding::backward(Pass& pass, Tensor dy_TD) {
  if (table_.is_frozen()) return;
  Arena::Scope scope(pass.scratch);
  add_embedding_gradient(backend_, pass, table_, tp_.gather(pass, pass.scratch, dy_TD),
                         pass.batch.token_ids);
}

}  // namespace switchyard
