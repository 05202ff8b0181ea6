// verify: a layout against one rank. Runs the job that a configuration describes on its grid and on
// one rank, compares everything that training is made of (checks.h), and looks for the mechanism at
// fault when they differ.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "config/run_config.h"
#include "data/dataset.h"
#include "verify/checks.h"
#include "verify/diagnosis.h"
#include "verify/faulty_communicator.h"

namespace switchyard {

struct VerifyOptions {
  int64_t steps = 3;
  std::optional<Fault> fault = {};  // to plant in the layout's communicators; for tests
};

// Of rank 0; other ranks know `ok` only.
struct Verification {
  bool ok = false;
  std::string grid;                          // ProcessGrid::description()
  std::vector<StepReport> layout, one_rank;  // by step
  std::vector<Check> checks;                 // worst first
  std::vector<IsolatedLayout> isolated;      // when there was a failure
  std::string at_fault;                      // likewise: "gradients of experts: their sum over edp"
};

// `config` is resolved for the ranks of `world`, its precision chosen. `alone` is used on rank 0
// only, while all other ranks sleep. Collective.
Verification verify(const RunConfig& config, const VerifyOptions& options, const Dataset& dataset,
                    Communicator& world, Backend& backend, Backend* alone);

}  // namespace switchyard
