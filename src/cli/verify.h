// `switchyard verify`: proves that a configuration's layout computes what one rank computes.
#pragma once

#include <optional>
#include <string>

#include "cli/train.h"
#include "core/dtype.h"

namespace switchyard {

struct VerifyCommand {
  ConfigOptions config;
  int64_t steps = 3;
  std::optional<bool> shrink = {};  // left out: when the proof would need too much memory or time
  DType dtype = DType::kF64;
  bool all_checks = false;
  std::string fault = {};  // a group of the grid whose sums are wrong; for tests
};

// 0 when all checks hold; otherwise throws CollectiveError (kMismatch) after the report.
int run_verify(const VerifyCommand& command, Communicator& world);

}  // namespace switchyard
