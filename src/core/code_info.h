// CodeInfo: which program did something: what it was compiled from, by what, and how.
#pragma once

#include <string>

namespace switchyard {

struct CodeInfo {
  std::string version = "unknown";
  std::string revision = "unknown";  // of git, "-dirty" behind it where files had been changed
  std::string compiler = "unknown";  // "GNU 12.2.0"
  std::string build = "unknown";     // "Release: -O3 -DNDEBUG -march=native"

  bool operator==(const CodeInfo&) const = default;
};

}  // namespace switchyard
