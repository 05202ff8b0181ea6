// save_checkpoints RUN: a start, a save, the same step saved again with other values, and the
// removal of what is old. Says "committed CONTENT" after each. test_system_call_kills.cpp kills it.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string>

#include "checkpoint/run_directory.h"
#include "tiny_save.h"

int main(int argc, char** argv) {
  using namespace switchyard;
  if (argc != 2) return 64;
  try {
    Storage storage;
    RunDirectory run(storage, argv[1], {.lock_wait_s = 5});
    for (const int content : {1, 2}) {
      test::save_tiny(storage, run, 100, content);
      const std::string line = fmt::format("committed {}\n", content);
      if (write(STDOUT_FILENO, line.data(), line.size()) < 0) return 74;
    }
    run.remove_old({.keep_last = 2}, -1);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 70;
  }
}
