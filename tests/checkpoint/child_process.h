// A part of a test in a process of its own, which may be killed.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "support/catch.h"

namespace switchyard::test {

class ChildProcess {
 public:
  // `work` gets a descriptor to write to; what it wrote is for read().
  explicit ChildProcess(const std::function<void(int)>& work) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    pid_ = fork();
    if (pid_ == 0) {
      close(ends[0]);
      work(ends[1]);
      _exit(0);
    }
    close(ends[1]);
    output_ = ends[0];
  }
  ~ChildProcess() {
    kill();
    wait();
    close(output_);
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void kill() const {
    if (!ended_) ::kill(pid_, SIGKILL);
  }
  // Waits for the next byte; -1 where no more will come.
  int read() const {
    unsigned char byte = 0;
    return ::read(output_, &byte, 1) == 1 ? byte : -1;
  }
  int wait() {  // the status of waitpid()
    if (!ended_) waitpid(pid_, &status_, 0);
    ended_ = true;
    return status_;
  }

 private:
  pid_t pid_ = 0;
  int output_ = -1, status_ = 0;
  bool ended_ = false;
};

}  // namespace switchyard::test
