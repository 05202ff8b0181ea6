// Reading a configuration: JSON text to a validated, resolved RunConfig.
//
// The parse is strict. Unknown or duplicate keys, wrong types, values out of range and numbers that
// would lose digits are errors, and so are sizes that do not fit each other; all of them are
// reported together in one Error (ExitCode::kConfig), one line each:
//   config.json:12:5: /moe/top_k: found 9, expected 1 to 8 (moe.num_experts)
#pragma once

#include <string>
#include <vector>

#include "config/run_config.h"

namespace switchyard {

struct ConfigSource {
  std::string name;                         // of the file, for messages
  std::string text;                         // JSON; // and /* */ comments are allowed
  std::vector<std::string> overrides = {};  // "moe.top_k=1"; a later one wins
};

// Parses, resolves and validates for a job of `num_ranks` ranks.
RunConfig load_config(const ConfigSource& source, int num_ranks);

// Parses alone: nothing is derived, and no value is checked against another.
RunConfig parse_config(const ConfigSource& source);

// Fills every optional field of a RunConfig built in code and checks that its sizes fit each other
// and the number of ranks. Idempotent.
void resolve(RunConfig& config, int num_ranks);

// The configuration as JSON that load_config() reads back to an equal one.
std::string to_json(const RunConfig& config);

// A file of every key with its default and its meaning, as JSON with comments.
std::string default_config_text();

// JSON Schema (draft-07) of the file, for editors.
std::string schema_text();

}  // namespace switchyard
