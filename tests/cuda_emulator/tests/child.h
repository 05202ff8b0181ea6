// Runs a piece of a program in a child process, with the environment that it is to find: the mode
// of the emulator is read once, and a bug that is caught ends the process.
#pragma once

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.h"

namespace cuda_emulator::test {

struct Ended {
  int status = 0;      // as the shell would say: the exit status, or 128 + the signal
  std::string output;  // stdout and stderr
};

using Environment = std::vector<std::pair<const char*, const char*>>;

// The child ends with 0 if `program` returns.
inline Ended run_in_child(const Environment& environment, const std::function<void()>& program) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    for (const auto& [name, value] : environment) setenv(name, value, 1);
    try {
      program();
    } catch (const std::exception& error) {
      fprintf(stderr, "%s\n", error.what());
      _exit(1);
    }
    fflush(nullptr);
    _exit(0);
  }
  close(ends[1]);
  Ended ended;
  char text[4096];
  for (ssize_t bytes = 0; (bytes = read(ends[0], text, sizeof text)) > 0;)
    ended.output.append(text, static_cast<size_t>(bytes));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  ended.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ended;
}

inline Environment in_mode(const char* mode, const char* seed = "1") {
  return {{"SWITCHYARD_CUDA_MODE", mode}, {"SWITCHYARD_CUDA_SEED", seed}};
}

// For programs in children: what is not so is printed, and ends the child with 1.
inline void expect(bool condition, const char* what) {
  if (condition) return;
  fprintf(stderr, "not so: %s\n", what);
  _exit(1);
}

inline void check_success(const Ended& ended) {
  INFO(ended.output);
  CHECK(ended.status == 0);
}

// The emulator stopped the child, with a message that contains `text`.
inline void check_stopped(const Ended& ended, const std::string& text) {
  INFO(ended.output);
  CHECK(ended.status == 86);
  CHECK_THAT(ended.output, switchyard::test::contains_text(text));
}

// The child found a wrong result.
inline void check_wrong(const Ended& ended, const std::string& what) {
  INFO(ended.output);
  CHECK(ended.status == 1);
  CHECK_THAT(ended.output, switchyard::test::contains_text("not so: " + what));
}

}  // namespace cuda_emulator::test

#define EXPECT(condition) ::cuda_emulator::test::expect((condition), #condition)
#define EXPECT_SUCCESS(call) \
  ::cuda_emulator::test::expect((call) == cudaSuccess, #call " returns cudaSuccess")
