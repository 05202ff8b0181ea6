// Digests of tensors for checkpoints.
#include "core/digest.h"

#include <atomic>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/parallel.h"

namespace switchyard {

void CpuOps::do_digest_add(Queue, Tensor sum, Tensor x, int64_t first_index, int64_t row_stride) {
  const int64_t M = x.dim(1);
  const auto item = static_cast<int64_t>(size_in_bytes(x.dtype()));
  const auto* bytes = static_cast<const std::byte*>(x.raw());
  std::atomic<uint64_t> total = 0;  // integers: any order gives the same
  with_word(static_cast<size_t>(item), [&](auto word) {
    parallel_for(num_threads_, x.numel(), kElementsPerTask, [&](int64_t begin, int64_t end) {
      uint64_t mine = 0;
      for (int64_t i = begin, next = 0; i < end; i = next) {  // to the end of the row
        next = std::min(end, (i / M + 1) * M);
        mine += digest_of_run<decltype(word)>(bytes + i * item,
                                              first_index + i / M * row_stride + i % M, next - i);
      }
      total += mine;
    });
  });
  int64_t& held = *sum.data<int64_t>();  // modulo 2^64
  held = static_cast<int64_t>(static_cast<uint64_t>(held) + total);
}

}  // namespace switchyard
