#include "core/error.h"

#include <string_view>

namespace switchyard {

const char* name_of(ExitCode code) {
  switch (code) {
    case ExitCode::kOk:
      return "ok";
    case ExitCode::kConfig:
      return "config";
    case ExitCode::kData:
      return "data";
    case ExitCode::kLocked:
      return "locked";
    case ExitCode::kInternal:
      return "internal";
    case ExitCode::kStorage:
      return "storage";
    case ExitCode::kStopped:
      return "stopped";
    case ExitCode::kHang:
      return "hang";
    case ExitCode::kNumeric:
      return "numeric";
    case ExitCode::kMismatch:
      return "mismatch";
    case ExitCode::kNoProgress:
      return "no_progress";
  }
  return "unknown";
}

ExitCode exit_code_of(const std::exception& error) {
  const auto* ours = dynamic_cast<const Error*>(&error);
  return ours != nullptr ? ours->code() : ExitCode::kInternal;
}

void fail(ExitCode code, const char* file, int line, const std::string& message) {
  if (code != ExitCode::kInternal) throw Error(code, message);
  std::string_view path = file;
  const auto src = path.rfind("src/");
  if (src != std::string_view::npos) path.remove_prefix(src);
  throw Error(code, fmt::format("{} [{}:{}]", message, path, line));
}

}  // namespace switchyard
