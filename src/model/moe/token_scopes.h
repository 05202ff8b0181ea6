// TokenScopes: which tokens are counted together - for a balance loss, a capacity or Sinkhorn - and
// which ranks hold them. A scope is a sequence or the global micro-batch, never "what this rank
// happens to see": no grid can change it.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "config/run_config.h"
#include "model/pass.h"
#include "model/tensor_parallel.h"

namespace switchyard {

// The ranks that hold tokens of the same scopes.
struct ScopeGroup {
  Communicator& ranks;
  std::vector<int64_t> rows;  // of each rank, in the order of the tokens
  int64_t first_row;          // of this rank's rows among them
  int64_t num_scopes;
  int64_t rows_per_scope;
};

class TokenScopes {
 public:
  // `stage`: the ranks that share the global micro-batch.
  TokenScopes(const TensorParallel& tp, Communicator& stage) : tp_(&tp), stage_(&stage) {}

  // "global_batch" counts over several micro-batches (balance_loss.h); of one, its tokens are those
  // of "micro_batch".
  ScopeGroup group_of(const MicroBatch& batch, BalanceScope scope) const;
  // First row that this rank owns, in the global micro-batch.
  int64_t first_row(const MicroBatch& batch) const;

 private:
  const TensorParallel* tp_;
  Communicator* stage_;
};

}  // namespace switchyard
