#include "core/error.h"

#include <string_view>

namespace switchyard {

void fail(ExitCode code, const char* file, int line, const std::string& message) {
  if (code != ExitCode::kInternal) throw Error(code, message);
  std::string_view path = file;
  const auto src = path.rfind("src/");
  if (src != std::string_view::npos) path.remove_prefix(src);
  throw Error(code, fmt::format("{} [{}:{}]", message, path, line));
}

}  // namespace switchyard
