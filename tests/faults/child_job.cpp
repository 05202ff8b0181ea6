#include "child_job.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>

#include "core/error.h"

namespace switchyard::test {
namespace {

[[noreturn]] void be_child(const std::function<int(const Say&)>& work, int output) {
  const Say say = [output](const std::string& line) {
    const std::string text = line + "\n";  // one write: lines stay whole
    if (write(output, text.data(), text.size()) != static_cast<ssize_t>(text.size())) _exit(99);
  };
  int status = 98;
  try {
    status = work(say);
  } catch (const std::exception& error) {
    say(std::string("exception ") + error.what());
  }
  _exit(status);  // threads that hang do not keep it
}

// False: the child has not ended after so long.
bool read_all(int input, double limit_s, std::string& text) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(limit_s);
  char part[4096];
  for (;;) {
    const auto left =
        std::chrono::duration<double, std::milli>(end - std::chrono::steady_clock::now());
    pollfd ready = {.fd = input, .events = POLLIN, .revents = 0};
    if (left.count() <= 0 || poll(&ready, 1, static_cast<int>(left.count()) + 1) == 0) return false;
    const ssize_t count = read(input, part, sizeof part);
    if (count <= 0) return true;
    text.append(part, static_cast<size_t>(count));
  }
}

}  // namespace

std::string ChildEnd::text() const {
  return fmt::format("{} (status {}):\n{}\n",
                     killed ? "killed"
                     : hung ? "hung"
                            : "ended",
                     status, fmt::join(lines, "\n"));
}

ChildEnd run_in_child(const std::function<int(const Say&)>& work, double limit_s) {
  int ends[2];
  SY_CHECK(pipe(ends) == 0, "no pipe");
  const pid_t child = fork();
  SY_CHECK(child >= 0, "no child");
  if (child == 0) {
    close(ends[0]);
    be_child(work, ends[1]);
  }
  close(ends[1]);
  ChildEnd result;
  std::string text;
  result.hung = !read_all(ends[0], limit_s, text);
  if (result.hung) kill(child, SIGKILL);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  result.killed = !result.hung && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // it was killed in the middle
    result.lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return result;
}

}  // namespace switchyard::test
