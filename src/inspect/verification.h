// `switchyard inspect --verify`: is every byte of a checkpoint what was written?
#pragma once

#include <cstdint>
#include <string>

#include "core/error.h"
#include "inspect/run_contents.h"

namespace switchyard {

struct VerifiedCheckpoint {
  std::string directory = {};
  int64_t bytes = 0;  // read and found right
  double seconds = 0;
  ExitCode code = ExitCode::kOk;  // kData, kStorage
  std::string problem = {};       // the first, with file, tensor and block
  bool is_gone = false;           // a job at work has removed it meanwhile: nothing is wrong
};

// Manifest, headers, the checksum of every block, the digest of every tensor.
VerifiedCheckpoint verify_checkpoint(const std::string& step_directory);
// The same; and it is the step, and of the run, that its name and place say.
VerifiedCheckpoint verify_checkpoint(const RunItem& item);

// "run/step-000001000: right, 512.0 MB at 1430 MB/s"
std::string to_text(const VerifiedCheckpoint& verified);

}  // namespace switchyard
