// A job killed at each of its system calls, by strace, which knows nothing of our fault points.
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "checkpoint/run_directory.h"
#include "support/catch.h"
#include "support/temporary_directory.h"
#include "tiny_save.h"

namespace switchyard::test {
namespace {

namespace fs = std::filesystem;

// Those that change something on a disk, or say that it is there.
const std::string kCalls =
    "openat,write,pwrite64,fallocate,fdatasync,fsync,close,mkdir,rename,unlink,rmdir,ftruncate,"
    "flock";

// Runs save_checkpoints under strace; returns the status of waitpid().
int run_traced(const std::string& options, const TemporaryDirectory& directory,
               const std::string& run) {
  // The leak checker cannot work where strace does.
  const std::string command = "ASAN_OPTIONS=detect_leaks=0 " SWITCHYARD_STRACE " -f -o " +
                              directory.file("trace") + " " + options +
                              " " SWITCHYARD_SAVE_CHECKPOINTS " " + run + " > " +
                              directory.file("output") + " 2> " + directory.file("errors");
  return std::system(command.c_str());
}

// How often each call is made, and how often before the first that names the run directory.
struct Count {
  int before = 0, all = 0;
};
std::map<std::string, Count> count_calls(const std::string& trace, const std::string& run) {
  std::map<std::string, Count> counts;
  std::ifstream lines(trace);
  bool has_begun = false;
  for (std::string line; std::getline(lines, line);) {
    has_begun = has_begun || line.find(run) != std::string::npos;
    const size_t begin = line.find_first_not_of("0123456789 ");
    const size_t end = line.find('(');
    if (begin >= end || end == std::string::npos) continue;  // "+++ exited with 0 +++"
    Count& count = counts[line.substr(begin, end - begin)];
    ++count.all;
    if (!has_begun) ++count.before;
  }
  return counts;
}

TEST_CASE("a job killed at any system call loses nothing that it has committed") {
  const TemporaryDirectory directory(TemporaryDirectory::memory());
  const std::string before = directory.file("before"), run = directory.file("run");
  {
    Storage storage;
    RunDirectory prepared(storage, before, {.lock_wait_s = 0});
    for (const int step : {0, 10, 20}) save_tiny(storage, prepared, step, step);
  }
  fs::copy(before, run, fs::copy_options::recursive);
  if (std::string(SWITCHYARD_STRACE).ends_with("-NOTFOUND") ||
      run_traced("-e trace=" + kCalls, directory, run) != 0) {
    WARN("not tested: strace is not installed, or may not trace here; "
         << read_bytes(directory.file("errors")));
    return;
  }
  REQUIRE(read_bytes(directory.file("output")) == "committed 1\ncommitted 2\n");
  int num_kills = 0;
  for (const auto& [call, count] : count_calls(directory.file("trace"), run)) {
    for (int nth = count.before + 1; nth <= count.all; ++nth, ++num_kills) {
      INFO("killed at call " << nth << " of " << call);
      fs::remove_all(run);
      fs::copy(before, run, fs::copy_options::recursive);
      const std::string kill = call + ":signal=KILL:when=" + std::to_string(nth);
      REQUIRE(run_traced("-e trace=" + call + " -e inject=" + kill, directory, run) != 0);
      const std::string output = read_bytes(directory.file("output"));
      Storage storage;
      const RunDirectory next(storage, run, {.lock_wait_s = 5});
      const TinyFound found = newest_tiny(next);
      CHECK(found.step >= (output.empty() ? 20 : 100));
      if (output.find("committed 2") != std::string::npos) CHECK(found.content == 2);
      for (const int64_t step : next.committed_steps()) CHECK(read_tiny(next, step).has_value());
      CHECK(next.committed_steps().size() >= 2);
    }
  }
  std::printf("killed at %d system calls\n", num_kills);
  CHECK(num_kills >= 100);
}

}  // namespace
}  // namespace switchyard::test
