// A job in a process of its own, which may be killed or hang. Made before this process has threads.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace switchyard::test {

struct ChildEnd {
  bool killed = false;  // by SIGKILL of its own
  bool hung = false;    // killed by us, at the time limit
  int status = -1;      // that it exited with
  std::vector<std::string> lines = {};

  std::string text() const;  // all lines, for messages of tests
};

// `work` runs in the child, which exits with what it returns; `say` hands a line to the parent, at
// once, from any thread.
using Say = std::function<void(const std::string& line)>;
ChildEnd run_in_child(const std::function<int(const Say& say)>& work, double limit_s = 60);

}  // namespace switchyard::test
