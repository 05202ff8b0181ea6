#include "model/embedding.h"

#include "backend/ops.h"

namespace switchyard {

Tensor Embedding::forward(Pass& pass) const {
  Tensor y_TD =
      pass.activations.allocate(table_.weight.dtype(), {pass.batch.num_tokens(), table_.shape[1]});
  backend_.ops().embedding_forward(pass.queue, y_TD, table_.weight, pass.batch.token_ids, 0,
                                   table_.global_shape[0]);
  return y_TD;
}

void Embedding::backward(Pass& pass, Tensor dy_TD) {
  backend_.ops().embedding_backward(pass.queue, table_.gradient(), dy_TD, pass.batch.token_ids, 0,
                                    table_.global_shape[0]);
}

}  // namespace switchyard
