#include "checkpoint/box_cover.h"

#include "core/random.h"

namespace switchyard {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr uint64_t kPrime = (uint64_t{1} << 61) - 1;

uint64_t product(uint64_t a, uint64_t b) { return static_cast<uint64_t>(Wide{a} * b % kPrime); }

// The weights of all indices of dimension d before `index`, summed: a random number. So is then
// the weight of each index, the difference of two.
uint64_t weights_before(size_t d, int64_t index) {
  const auto words = philox(d, static_cast<uint64_t>(index));
  return ((uint64_t{words[0]} << 32) | words[1]) % kPrime;
}

// Sum over the elements of a box of their weights. The weight of an element is the product of those
// of its indices.
uint64_t weight_of(const Box& box) {
  uint64_t weight = 1;
  for (size_t d = 0; d < box.shape.size(); ++d) {
    const int64_t end = box.offset[d] + box.shape[d];
    weight = product(weight, weights_before(d, end) + kPrime - weights_before(d, box.offset[d]));
  }
  return weight;
}

}  // namespace

// Count how often each element is covered. The boxes' weights sum to the weight of the whole if
// every count is 1; if one is not, the difference is a polynomial in the weights of indices, not
// zero and of a degree of `shape.size()`, which few random values make zero (Schwartz-Zippel).
bool cover_once(const std::vector<const Box*>& boxes, std::span<const int64_t> shape) {
  uint64_t sum = 0;
  for (const Box* box : boxes) sum = (sum + weight_of(*box)) % kPrime;
  return sum == weight_of(whole_box({shape.begin(), shape.end()}));
}

}  // namespace switchyard
