// LATEST: which checkpoint of a run is the newest, for people and their scripts. Nothing goes by
// it: it is written after a commit, which stands without it.
//
//   {"step":1000,"directory":"step-000001000","manifest_sha256":"..."}
#pragma once

#include <cstdint>
#include <string>

namespace switchyard {

struct Latest {
  int64_t step = 0;
  std::string directory = {};
  std::string manifest_sha256 = {};  // of manifest.json; "": not said, as by earlier versions
};

std::string to_json(const Latest& latest);
// Strict. Error (kData) with `path`.
Latest parse_latest(const std::string& text, const std::string& path);

}  // namespace switchyard
