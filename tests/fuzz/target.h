// What is fuzzed: parsers of bytes that nobody vouches for. Each takes an input in, or refuses it
// with an Error of its one exit code; anything else is a bug.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/error.h"

namespace switchyard::fuzz {

struct Target {
  std::string name = {};
  ExitCode refusal = ExitCode::kData;
  std::vector<std::string> corpus = {};  // inputs that are taken in
  // Takes an input. May check what it made of it; errors of other kinds than `refusal` are bugs.
  std::function<void(const std::string& input)> take = {};
  // Makes checksums fit again, so that what lies behind them is reached. May be missing.
  std::function<std::string(std::string input)> mend = {};
};

std::vector<Target> all_targets();

}  // namespace switchyard::fuzz
