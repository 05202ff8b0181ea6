// run.json: who a run is, and how often it was started.
#pragma once

#include <cstdint>
#include <string>

namespace switchyard {

struct RunIdentity {
  std::string run_id = {};   // of the run directory; 32 hexadecimal digits, as the next
  std::string lineage = {};  // changes when the run goes back
  int64_t attempts = 0;      // starts so far

  bool operator==(const RunIdentity&) const = default;
};

std::string random_id();

std::string to_json(const RunIdentity& identity);
// Strict, with a checksum: error (kData) with `path` for anything that to_json() does not give.
RunIdentity parse_run_file(const std::string& text, const std::string& path);
// Of a file. Errors: as above, and File::open_of_checkpoint().
RunIdentity read_run_file(const std::string& path);

}  // namespace switchyard
