#include "model/moe/token_scopes.h"

namespace switchyard {

ScopeGroup TokenScopes::group_of(const MicroBatch& batch, BalanceScope scope) const {
  const std::vector<int64_t> slices = tp_->rows_of_ranks(batch.num_tokens());
  if (scope == BalanceScope::kSequence)
    return {tp_->communicator(), slices, tp_->my_rows(batch.num_tokens()).begin,
            batch.num_sequences, batch.sequence_length};
  // The rows of the stage's ranks, in rank order, are the rows of the global micro-batch.
  std::vector<int64_t> rows;
  while (rows.size() < static_cast<size_t>(stage_->size()))
    rows.insert(rows.end(), slices.begin(), slices.end());
  return {*stage_, rows, first_row(batch), 1, batch.global_rows};
}

int64_t TokenScopes::first_row(const MicroBatch& batch) const {
  return batch.first_row + tp_->my_rows(batch.num_tokens()).begin;
}

}  // namespace switchyard
