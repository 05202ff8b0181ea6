#include "checkpoint/digest.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace switchyard {
namespace {

// Multiplier of the golden ratio; the finaliser is Stafford's variant 13 of MurmurHash3's. For a
// given index it is a bijection of the bits.
constexpr uint64_t kIndexStep = 0x9E3779B97F4A7C15u;

inline uint64_t mix(uint64_t index_times_step, uint64_t bits) {
  uint64_t x = bits + index_times_step;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Words may lie at any address.
template <typename Word>
uint64_t digest_of_run(const std::byte* bytes, int64_t first_index, int64_t count) {
  const uint64_t begin = static_cast<uint64_t>(first_index) * kIndexStep;
  uint64_t sum = 0;
  for (uint64_t i = 0; i < static_cast<uint64_t>(count); ++i) {
    Word word;
    std::memcpy(&word, bytes + i * sizeof(Word), sizeof(Word));
    sum += mix(begin + i * kIndexStep, word);
  }
  return sum;
}

uint64_t digest_of_run(size_t item, const std::byte* bytes, int64_t first_index, int64_t count) {
  switch (item) {
    case 1:
      return digest_of_run<uint8_t>(bytes, first_index, count);
    case 2:
      return digest_of_run<uint16_t>(bytes, first_index, count);
    case 4:
      return digest_of_run<uint32_t>(bytes, first_index, count);
    default:
      return digest_of_run<uint64_t>(bytes, first_index, count);
  }
}

}  // namespace

uint64_t digest_of(std::span<const int64_t> shape, const Box& box, DType dtype,
                   std::span<const std::byte> bytes) {
  const size_t item = size_in_bytes(dtype);
  SY_CHECK(bytes.size() == static_cast<size_t>(box.numel()) * item, "{} bytes for {} {}",
           bytes.size(), box_text(box), name_of(dtype));
  uint64_t sum = 0;
  for_each_run(shape, box, [&](const Run& run) {
    sum += digest_of_run(item, bytes.data() + static_cast<size_t>(run.part) * item, run.whole,
                         run.count);
  });
  return sum;
}

uint64_t digest_of(const HeldTensor& held, std::span<const std::byte> bytes) {
  return digest_of(held.shape, held.box, held.data.dtype(), bytes);
}

std::vector<uint64_t> digests_of(const std::vector<HeldTensor>& held, Backend& backend) {
  std::vector<uint64_t> digests;
  std::vector<std::byte> bytes;
  for (const HeldTensor& tensor : held) {
    bytes.resize(static_cast<size_t>(tensor.data.bytes()));
    backend.download(backend.compute_queue(), bytes.data(), tensor.data);
    backend.host_wait(backend.record(backend.compute_queue()));
    digests.push_back(digest_of(tensor, bytes));
  }
  return digests;
}

}  // namespace switchyard
