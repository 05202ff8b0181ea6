// Help for keys that do not exist: the nearest known name, or what another framework's name is
// called here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace switchyard {

// The candidate nearest to `word` (edits and swaps of neighbours), or "" when none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

// "; did you mean ...?" or "; it is called ... here" for the unknown key `pointer`; "" when nobody
// can guess.
std::string hint_for_unknown_key(std::string_view pointer);

}  // namespace switchyard
