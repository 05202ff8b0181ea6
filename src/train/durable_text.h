// A small file that is there as a whole or not at all, whatever happens.
#pragma once

#include <string>

namespace switchyard {

// Writes under another name, which has `writer` in it, then renames; a file of this name is
// replaced. On the disk when it returns. Error: kStorage.
void write_durably(const std::string& path, const std::string& text, int writer = 0);

}  // namespace switchyard
