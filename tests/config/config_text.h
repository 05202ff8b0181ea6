// Small configurations for the tests of config/.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "core/error.h"

namespace switchyard::test {

// A complete file around `more` ("\"moe\": {...}"), which stands on line 3.
inline std::string config_with(const std::string& more) {
  return "{ \"data\": {\"path\": \"x\"},\n  \"train_batch_size\": 8,\n" + more + "\n}\n";
}

inline RunConfig load(const std::string& text, int num_ranks = 1,
                      const std::vector<std::string>& overrides = {}) {
  return load_config({"c.json", text, overrides}, num_ranks);
}

// The message of the error that loading ends in, "" if it succeeds.
inline std::string message_of(const std::string& text, int num_ranks = 1,
                              const std::vector<std::string>& overrides = {}) {
  try {
    load(text, num_ranks, overrides);
  } catch (const Error& error) {
    return error.code() == ExitCode::kConfig ? error.what() : "wrong exit code";
  }
  return "";
}

}  // namespace switchyard::test
