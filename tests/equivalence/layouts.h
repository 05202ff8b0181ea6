// The grids of the equivalence proofs: every way to cut up to four ranks into dp and ep.
#pragma once

#include <vector>

namespace switchyard::test {

struct Layout {
  int dp, ep;
};

inline const std::vector<Layout> kLayouts = {{1, 1}, {2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}};

}  // namespace switchyard::test
