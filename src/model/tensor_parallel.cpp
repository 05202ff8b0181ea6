#include "model/tensor_parallel.h"

namespace switchyard {
namespace {

RowSlice rows_of(int64_t num_tokens, int rank, int size) {
  const int64_t begin = num_tokens * rank / size, end = num_tokens * (rank + 1) / size;
  return {begin, end - begin};
}

Tensor allocate_rows(Arena& arena, int64_t rows, Tensor like) {
  return arena.allocate(like.dtype(), {rows, like.dim(1)});
}

}  // namespace

std::vector<int64_t> TensorParallel::rows_of_ranks(int64_t num_tokens) const {
  std::vector<int64_t> rows;
  for (int r = 0; r < size(); ++r) rows.push_back(rows_of(num_tokens, r, size()).count);
  return rows;
}

RowSlice TensorParallel::my_rows(int64_t num_tokens) const {
  return rows_of(num_tokens, rank(), size());
}

int64_t TensorParallel::hidden_rows(int64_t num_tokens) const {
  return sequence_parallel_ ? my_rows(num_tokens).count : num_tokens;
}

Tensor TensorParallel::gather(Pass& pass, Arena& arena, Tensor hidden) const {
  if (!sequence_parallel_) return hidden;
  Tensor all_TD = allocate_rows(arena, pass.batch.num_tokens(), hidden);
  all_gather_rows(pass, all_TD, hidden);
  return all_TD;
}

Tensor TensorParallel::partial_sums(Pass& pass, Arena& arena, Tensor hidden) const {
  return sequence_parallel_ ? allocate_rows(arena, pass.batch.num_tokens(), hidden) : hidden;
}

void TensorParallel::reduce(Pass& pass, Tensor hidden, Tensor partial_TD) const {
  const Event ready = backend_.record(pass.queue);
  const std::vector<int64_t> rows = rows_of_ranks(pass.batch.num_tokens());
  backend_.wait(pass.queue, sequence_parallel_
                                ? tp_.reduce_scatter_rows(hidden, partial_TD, rows, ready)
                                : tp_.all_reduce_sum(hidden, ready));
}

Tensor TensorParallel::own_rows(Pass& pass, Tensor hidden) const {
  if (sequence_parallel_) return hidden;
  const RowSlice mine = my_rows(pass.batch.num_tokens());
  return hidden.rows(mine.begin, mine.count);
}

void TensorParallel::share_rows(Pass& pass, Tensor hidden) const {
  if (!sequence_parallel_) all_gather_rows(pass, hidden, own_rows(pass, hidden));
}

void TensorParallel::replicate(Parameter& parameter, Sees sees) const {
  if (size() == 1) return;  // no copies: one flat buffer fewer
  parameter.copies = Copies::kTensor;
  parameter.is_partial = sequence_parallel_ || sees == Sees::kOwnRows;
}

void TensorParallel::all_gather_rows(Pass& pass, Tensor all_TD, Tensor own) const {
  const std::vector<int64_t> rows = rows_of_ranks(pass.batch.num_tokens());
  backend_.wait(pass.queue, tp_.all_gather_rows(all_TD, own, rows, backend_.record(pass.queue)));
}

}  // namespace switchyard
