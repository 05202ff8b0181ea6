// Errors: one way to fail. Every check in the project ends in fail(), which throws Error; only
// main() catches. An Error carries the process exit code that main() returns.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace switchyard {

// The exit codes of the `switchyard` command, on every rank (README.md, "Exit codes").
enum class ExitCode : int {
  kOk = 0,
  kConfig = 64,      // the user's configuration or command line is wrong
  kData = 65,        // an input file is corrupt or does not fit the configuration
  kLocked = 69,      // another job works in the run directory
  kInternal = 70,    // a bug, or the machine failed us
  kStorage = 74,     // reading or writing a file failed
  kStopped = 75,     // stopped on request, saved: start it again to go on
  kHang = 76,        // a rank made no progress
  kNumeric = 77,     // training cannot go on: a loss is not finite, or routing exceeds its bound
  kMismatch = 78,    // `verify`: not what one rank computes; `inspect --diff`: not the same
  kNoProgress = 93,  // launch scripts: fails again and again at the same step; do not requeue
};

const char* name_of(ExitCode code);  // "storage"

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// Of an Error its own, of any other exception kInternal.
ExitCode exit_code_of(const std::exception& error);

// Throws Error. `where` ("file:line") is appended for internal errors, which a user reports to us;
// user errors (config, data, storage) say where the *user* has to look instead.
[[noreturn]] void fail(ExitCode code, const char* file, int line, const std::string& message);

}  // namespace switchyard

// SY_CHECK(p > 0, "{} experts over {} ranks", e, p): an invariant of the program.
#define SY_CHECK(condition, ...)                                                \
  do {                                                                          \
    if (!(condition))                                                           \
      ::switchyard::fail(::switchyard::ExitCode::kInternal, __FILE__, __LINE__, \
                         ::fmt::format(__VA_ARGS__));                           \
  } while (false)

// SY_REQUIRE(kData, ok, "{}: ...", path): something the user or the machine must put right.
#define SY_REQUIRE(code, condition, ...)                                   \
  do {                                                                     \
    if (!(condition))                                                      \
      ::switchyard::fail(::switchyard::ExitCode::code, __FILE__, __LINE__, \
                         ::fmt::format(__VA_ARGS__));                      \
  } while (false)
