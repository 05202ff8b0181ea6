// TensorParallel: how a tensor-parallel layer meets the hidden states between the blocks.
//
// Inside a layer every tp rank sees all T tokens and holds a slice of the weights: columns of the
// first matrix (outputs), rows of the last (inputs). Between blocks, with sequence parallelism
// (arXiv 2205.05198) a rank holds the rows of its own tokens only; without, all of them.
//
//                      with sequence parallelism        without
//   gather             all-gather of the rows           nothing
//   reduce             reduce-scatter of partial sums   all-reduce of partial sums
//   own_rows           the hidden state                 a view of this rank's rows
//   share_rows         nothing                          all-gather of the rows
//
// Each is the other's mirror: the backward of gather is reduce and the reverse; that of own_rows is
// share_rows and the reverse. Every row has one owner: rank t owns rows [T*t/tp, T*(t+1)/tp), which
// may be none.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "model/parameter.h"
#include "model/pass.h"

namespace switchyard {

// Rows [begin, begin + count).
struct RowSlice {
  int64_t begin, count;
};

class TensorParallel {
 public:
  TensorParallel(Backend& backend, Communicator& tp, bool sequence_parallel)
      : backend_(backend), tp_(tp), sequence_parallel_(sequence_parallel) {}

  Communicator& communicator() const { return tp_; }
  int rank() const { return tp_.rank(); }
  int size() const { return tp_.size(); }

  // The rows of each rank, in their order.
  std::vector<int64_t> rows_of_ranks(int64_t num_tokens) const;
  RowSlice my_rows(int64_t num_tokens) const;
  // Rows of a hidden state between blocks: mine, or all.
  int64_t hidden_rows(int64_t num_tokens) const;

  // (T, D) from a hidden state; a new tensor in `arena`, or the hidden state itself.
  Tensor gather(Pass& pass, Arena& arena, Tensor hidden) const;
  // Room for the partial sums (T, D) that reduce() will turn into `hidden`: a new tensor in
  // `arena`, or `hidden` itself.
  Tensor partial_sums(Pass& pass, Arena& arena, Tensor hidden) const;
  // hidden = the sums; `partial_TD` comes from partial_sums(hidden).
  void reduce(Pass& pass, Tensor hidden, Tensor partial_TD) const;
  // A view of the rows of a hidden state that are mine.
  Tensor own_rows(Pass& pass, Tensor hidden) const;
  // Fills in the other ranks' rows of a hidden state of which each has its own.
  void share_rows(Pass& pass, Tensor hidden) const;

  // Declares that every tp rank holds `parameter` whole. Its gradient is a part on each rank when
  // each sees tokens of its own only.
  enum class Sees { kHiddenRows, kOwnRows };
  void replicate(Parameter& parameter, Sees sees) const;

 private:
  void all_gather_rows(Pass& pass, Tensor all_TD, Tensor own) const;

  Backend& backend_;
  Communicator& tp_;
  bool sequence_parallel_;
};

}  // namespace switchyard
