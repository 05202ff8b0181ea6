// ThreadSanitizer sees every stream and every CUDA thread as a thread, ordered by nothing but what
// CUDA promises: a missing order is a data race even where the result is right.
#include "child.h"

namespace cuda_emulator::test {
namespace {

constexpr const char* kPrograms[] = {"wait_between_streams", "wait_before_reading",
                                     "wait_before_overwriting", "order_branches",
                                     "wait_on_each_thread"};

Ended run_program(const char* mode, const char* program, const char* variant) {
  Environment environment = in_mode(mode);
  environment.emplace_back("TSAN_OPTIONS", "exitcode=66:atexit_sleep_ms=0");
  return run_in_child(environment, [=] {
    execl(CUDA_EMULATOR_RACES, CUDA_EMULATOR_RACES, program, variant, nullptr);
    perror(CUDA_EMULATOR_RACES);
    _exit(2);
  });
}

}  // namespace

TEST_CASE("missing orders are data races in eager mode, in which results are right") {
  for (const char* program : kPrograms) {
    const Ended ended = run_program("eager", program, "planted");
    INFO(program << "\n" << ended.output);
    CHECK(ended.status == 66);
    CHECK_THAT(ended.output, switchyard::test::contains_text("ThreadSanitizer: data race"));
    CHECK_THAT(ended.output, !switchyard::test::contains_text("not so"));
  }
}

TEST_CASE("programs that are right have no races in any mode") {
  for (const char* mode : {"eager", "lazy", "random"})
    for (const char* program : kPrograms) {
      INFO(mode << ", " << program);
      check_success(run_program(mode, program, "right"));
    }
}

}  // namespace cuda_emulator::test
