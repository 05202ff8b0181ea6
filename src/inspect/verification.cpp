#include "inspect/verification.h"

#include <algorithm>
#include <chrono>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/run_entries.h"
#include "inspect/text_table.h"

namespace switchyard {

VerifiedCheckpoint verify_checkpoint(const std::string& step_directory) {
  VerifiedCheckpoint verified{.directory = step_directory};
  const bool was_there = exists(step_directory);
  const auto begin = std::chrono::steady_clock::now();
  try {
    const CheckpointReader reader(step_directory);
    reader.verify_everything();
    for (const auto& [name, file] : reader.manifest().files) verified.bytes += file.bytes;
  } catch (const Error& error) {
    verified.is_gone = was_there && !exists(step_directory);
    verified.code = verified.is_gone ? ExitCode::kOk : error.code();
    verified.problem = error.what();
  }
  verified.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return verified;
}

VerifiedCheckpoint verify_checkpoint(const RunItem& item) {
  VerifiedCheckpoint verified = verify_checkpoint(item.directory);
  if (verified.code == ExitCode::kOk && !verified.is_gone && !item.problem.empty()) {
    verified.code = ExitCode::kData;
    verified.problem = item.problem;
  }
  return verified;
}

std::string to_text(const VerifiedCheckpoint& verified) {
  if (verified.is_gone) return fmt::format("{}: removed while it was read", verified.directory);
  if (verified.code != ExitCode::kOk)
    return fmt::format("{}: WRONG: {}", verified.directory, verified.problem);
  return fmt::format("{}: right, {} at {:.0f} MB/s", verified.directory, megabytes(verified.bytes),
                     static_cast<double>(verified.bytes) / 1e6 / std::max(verified.seconds, 1e-9));
}

}  // namespace switchyard
