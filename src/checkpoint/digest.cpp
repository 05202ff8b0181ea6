#include "checkpoint/digest.h"

#include <algorithm>

#include "backend/ops.h"
#include "core/digest.h"
#include "core/error.h"

namespace switchyard {
namespace {

// Runs of equal length at equal distances: most boxes are one such pattern.
struct RunPattern {
  int64_t whole = 0, part = 0;    // place of the first element
  int64_t rows = 0, columns = 0;  // runs, and elements of each
  int64_t stride = 0;             // from run to run in the whole
};

std::vector<RunPattern> patterns_of(std::span<const int64_t> shape, const Box& box) {
  std::vector<RunPattern> patterns;
  for_each_run(shape, box, [&](const Run& run) {
    if (!patterns.empty()) {
      RunPattern& last = patterns.back();
      const int64_t stride = run.whole - last.whole - (last.rows - 1) * last.stride;
      if (run.count == last.columns && (last.rows == 1 || stride == last.stride)) {
        last.stride = stride;
        ++last.rows;
        return;
      }
    }
    patterns.push_back({run.whole, run.part, 1, run.count, run.count});
  });
  return patterns;
}

}  // namespace

uint64_t digest_of(std::span<const int64_t> shape, const Box& box, DType dtype,
                   std::span<const std::byte> bytes) {
  const size_t item = size_in_bytes(dtype);
  SY_CHECK(bytes.size() == static_cast<size_t>(box.numel()) * item, "{} bytes for {} {}",
           bytes.size(), box_text(box), name_of(dtype));
  uint64_t sum = 0;
  for_each_run(shape, box, [&](const Run& run) {
    with_word(item, [&](auto word) {
      sum += digest_of_run<decltype(word)>(bytes.data() + static_cast<size_t>(run.part) * item,
                                           run.whole, run.count);
    });
  });
  return sum;
}

uint64_t digest_of(const HeldTensor& held, std::span<const std::byte> bytes) {
  return digest_of(held.shape, held.box, held.data.dtype(), bytes);
}

Buffer memory_for_digests(const std::vector<HeldTensor>& held, Backend& backend) {
  return Buffer(backend, static_cast<int64_t>(std::max<size_t>(1, held.size()) * sizeof(int64_t)));
}

std::vector<uint64_t> digests_of(const std::vector<HeldTensor>& held, Backend& backend,
                                 const Buffer& memory) {
  const Queue queue = backend.compute_queue();
  const Tensor sums = memory.tensor(DType::kI64, {std::ssize(held)});
  backend.ops().fill(queue, sums, 0);
  for (int64_t i = 0; i < std::ssize(held); ++i) {
    const HeldTensor& tensor = held[static_cast<size_t>(i)];
    for (const RunPattern& p : patterns_of(tensor.shape, tensor.box))
      backend.ops().digest_add(
          queue, sums.rows(i, 1),
          tensor.data.flat().rows(p.part, p.rows * p.columns).reshape({p.rows, p.columns}), p.whole,
          p.stride);
  }
  std::vector<uint64_t> digests(held.size());
  backend.download(queue, digests.data(), sums);
  backend.host_wait(backend.record(queue));
  return digests;
}

std::vector<uint64_t> digests_of(const std::vector<HeldTensor>& held, Backend& backend) {
  return digests_of(held, backend, memory_for_digests(held, backend));
}

}  // namespace switchyard
