// CrashDump: when the process dies of a signal (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT), its page
// of progress marks goes to a file first, and those of the other ranks of its host, which mpirun is
// about to kill, with the system calls that are allowed then. Whoever handled the signal before
// (Open MPI prints a backtrace) handles it afterwards.
//
// A signal handler can reach static data only: one CrashDump at a time in a process.
#pragma once

#include <csignal>
#include <string>
#include <vector>

#include "core/progress.h"

namespace switchyard {

// A page that somebody else is writing, and where it goes unless it has been kept already.
struct OtherPage {
  std::string from, temporary, to;
};

class CrashDump {
 public:
  // The directory of `file` exists when the signal comes, or can be made: its parent exists.
  CrashDump(Progress& marks, const std::string& directory, const std::string& file,
            std::vector<OtherPage> others);
  ~CrashDump();
  CrashDump(const CrashDump&) = delete;
  CrashDump& operator=(const CrashDump&) = delete;

 private:
  const std::vector<OtherPage> others_;
  std::vector<char> stack_;  // for a handler after the stack has run over
};

}  // namespace switchyard
