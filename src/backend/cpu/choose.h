// choose_largest: the top-k of one token.
#pragma once

#include <algorithm>
#include <cstdint>

namespace switchyard {

// The `count` largest of key[0, n), largest first, the lower index first among equals. A NaN counts
// as less than any number, so that valid indices are chosen; the NaN itself reaches the loss
// through the weights.
template <typename Key>
void choose_largest(int32_t* chosen, const Key* key, int64_t n, int64_t count) {
  for (int64_t a = 0; a < count; ++a) {
    const auto taken = [&](int64_t i) { return std::find(chosen, chosen + a, i) != chosen + a; };
    int64_t best = -1;
    for (int64_t i = 0; i < n; ++i)
      if (!taken(i) &&
          (best < 0 || key[i] > key[best] || (key[best] != key[best] && key[i] == key[i])))
        best = i;
    chosen[a] = static_cast<int32_t>(best);
  }
}

}  // namespace switchyard
