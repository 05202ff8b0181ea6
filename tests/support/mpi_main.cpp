#define CATCH_CONFIG_RUNNER
#define CATCH_CONFIG_NO_POSIX_SIGNALS  // the ranks that mpirun stops are no failures of their own
#include "support/mpi_main.h"

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "comm/mpi_runtime.h"
#include "support/catch.h"

namespace switchyard::test {
namespace {

// Catch makes its listeners itself, so the runtime reaches them (and the tests) through here.
MpiRuntime*& runtime() {
  static MpiRuntime* instance = nullptr;
  return instance;
}

#if CATCH_VERSION_MAJOR == 2
using ListenerBase = Catch::TestEventListenerBase;
using AssertionEnded = bool;
#else
using ListenerBase = Catch::EventListenerBase;
using AssertionEnded = void;
#endif

class StopJobAtFirstFailure final : public ListenerBase {
 public:
  using ListenerBase::ListenerBase;

  void testCaseStarting(const Catch::TestCaseInfo& test) override { test_ = test.name; }

  AssertionEnded assertionEnded(const Catch::AssertionStats& stats) override {
    if (!stats.assertionResult.isOk()) stop_job(stats);
    return AssertionEnded(true);
  }

 private:
  [[noreturn]] void stop_job(const Catch::AssertionStats& stats) const {
    const Catch::AssertionResult& result = stats.assertionResult;
    const auto source = result.getSourceInfo();
    std::string text = fmt::format("{}, \"{}\"\n{}:{}: FAILED\n", mpi_world().name(), test_,
                                   source.file, source.line);
    if (result.hasExpression())
      text += fmt::format("  {}\n  {}\n", result.getExpressionInMacro(),
                          result.getExpandedExpression());
    for (const Catch::MessageInfo& info : stats.infoMessages)
      text += fmt::format("  {}\n", info.message);
    std::fputs(
        fmt::format("rank {} of {}: {}", mpi_world().rank(), mpi_world().size(), text).c_str(),
        stderr);
    runtime()->abort_job(1);
  }

  std::string test_;
};

CATCH_REGISTER_LISTENER(StopJobAtFirstFailure)

// Questions about the executable itself must not start MPI.
bool only_asks(int argc, char** argv) {
  for (int i = 1; i < argc; ++i)
    for (const char* question : {"--list", "-l", "-t", "--help", "-h", "-?"})
      if (std::strncmp(argv[i], question, std::strlen(question)) == 0) return true;
  return false;
}

int run_tests(int argc, char** argv) {
  Catch::Session session;
  if (only_asks(argc, argv)) return session.run(argc, argv);
  MpiRuntime mpi(argc, argv);
  runtime() = &mpi;
  std::vector<const char*> arguments(argv, argv + argc);
  if (mpi.world().rank() != 0) arguments.insert(arguments.end(), {"--out", "/dev/null"});
  return session.run(static_cast<int>(arguments.size()), arguments.data());
}

}  // namespace

Communicator& mpi_world() { return runtime()->world(); }

}  // namespace switchyard::test

int main(int argc, char** argv) { return switchyard::test::run_tests(argc, argv); }
