// ThreadSanitizer sees a collective as an access of its stream to the memory of this rank: a
// missing wait before or after it is a data race even where the result is right.
#include "child.h"

namespace cuda_emulator::test {
namespace {

constexpr const char* kPrograms[] = {"collective_waits_for_its_input", "result_is_waited_for"};

Ended run_program(const char* mode, const char* program, const char* variant) {
  Environment environment = in_mode(mode);
  environment.emplace_back("TSAN_OPTIONS", "exitcode=66");
  return run_in_child(environment, [=] {
    execl(CUDA_EMULATOR_RACES, CUDA_EMULATOR_RACES, program, variant, nullptr);
    perror(CUDA_EMULATOR_RACES);
    _exit(2);
  });
}

}  // namespace

TEST_CASE("missing waits before and after collectives are data races in eager mode") {
  for (const char* program : kPrograms) {
    const Ended ended = run_program("eager", program, "planted");
    INFO(program << "\n" << ended.output);
    CHECK(ended.status != 0);
    CHECK_THAT(ended.output, switchyard::test::contains_text("ThreadSanitizer: data race"));
  }
}

TEST_CASE("ranks that wait as they should have no races in any mode") {
  for (const char* mode : {"eager", "lazy", "random"})
    for (const char* program : kPrograms) {
      INFO(mode << ", " << program);
      check_success(run_program(mode, program, "right"));
    }
}

}  // namespace cuda_emulator::test
