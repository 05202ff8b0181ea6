// The driver feeds a target with mutated inputs, in a child process of its own, and finds out which
// input was wrong when the child dies, hangs or complains.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "target.h"

namespace switchyard::fuzz {

struct Limits {
  double seconds = 1e9;          // for all inputs
  uint64_t inputs = UINT64_MAX;  // that many, unless time is up before
  uint64_t first = 0;            // number of the first
  double seconds_each = 1;
  int64_t bytes_each = 64 << 20;  // of memory at a time, besides the input's own size
};

struct Finding {
  uint64_t number = 0;
  std::string input = {};
  std::string what = {};
};

struct Outcome {
  uint64_t inputs = 0, taken = 0;  // taken: not refused
  std::optional<Finding> finding = {};
};

Outcome fuzz(const Target& target, uint64_t seed, const Limits& limits);

// Takes one input in this process. What is wrong, or "".
std::string complaint_about(const Target& target, const std::string& input, const Limits& limits,
                            bool& taken);

}  // namespace switchyard::fuzz
