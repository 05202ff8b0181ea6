// Embedding lookup and its gradient.
#include <algorithm>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/storage.h"
#include "backend/dispatch.h"

namespace switchyard {
namespace {

// Before the threads start: an exception must not leave an OpenMP region.
void check_ids(Tensor ids, int64_t vocab_size) {
  for (const int32_t id : ids.span<int32_t>())
    SY_CHECK(id >= 0 && id < vocab_size, "token id {} outside a vocabulary of {}", id, vocab_size);
}

}  // namespace

void CpuOps::do_embedding_forward(Queue, Tensor y, Tensor table, Tensor ids, int64_t first_id,
                                  int64_t vocab_size) {
  check_ids(ids, vocab_size);
  with_real(table.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t V = table.dim(0), D = table.dim(1);
    parallel_for(num_threads_, ids.dim(0), rows_per_task(D), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t row = ids.data<int32_t>()[t] - first_id;
        if (row >= 0 && row < V)
          std::copy_n(table.data<Real>() + row * D, D, y.data<Real>() + t * D);
        else
          std::fill_n(y.data<Real>() + t * D, D, Real{});
      }
    });
  });
}

// Each thread owns a stripe of columns and adds the tokens in order: no races, always the same sum.
void CpuOps::do_embedding_backward(Queue, Tensor dtable, Tensor dy, Tensor ids, int64_t first_id,
                                   int64_t vocab_size) {
  check_ids(ids, vocab_size);
  with_real(dy.dtype(), [&](auto zero) {
    using Real = decltype(zero);
    const int64_t T = ids.dim(0), V = dtable.dim(0), D = dtable.dim(1);
    parallel_for(num_threads_, D, rows_per_task(T), [&](int64_t begin, int64_t end) {
      for (int64_t t = 0; t < T; ++t) {
        const int64_t id = ids.data<int32_t>()[t] - first_id;
        if (id < 0 || id >= V) continue;
        Compute<Real>* row = dtable.data<Compute<Real>>() + id * D;
        const Real* gradient = dy.data<Real>() + t * D;
        for (int64_t d = begin; d < end; ++d) row[d] += load(gradient[d]);
      }
    });
  });
}

}  // namespace switchyard
