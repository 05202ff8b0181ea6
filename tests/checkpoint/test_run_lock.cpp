// RunLock between processes: one holds it, the other is told who, or takes over from the dead.
#include <chrono>
#include <string>
#include <thread>

#include "checkpoint/run_lock.h"
#include "child_process.h"
#include "core/error.h"
#include "support/catch.h"
#include "support/temporary_directory.h"

namespace switchyard::test {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Holds the lock until it is killed.
void hold(const std::string& path, const RunLock::Options& options, int output) {
  const RunLock lock(path, options);
  if (write(output, "h", 1) != 1) _exit(1);
  pause();
}

TEST_CASE("a lock that is held names its holder, and is free when the holder is killed") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("lock");
  const bool locks_of_system = GENERATE(true, false);
  const RunLock::Options options{
      .wait_s = 0.1, .job_id = "4711", .locks_of_system = locks_of_system};
  ChildProcess child([&](int output) { hold(path, options, output); });
  REQUIRE(child.read() == 'h');
  const auto begin = Clock::now();
  try {
    const RunLock lock(path, options);
    FAIL("two hold the lock");
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::kLocked);
    CHECK_THAT(error.what(), contains_text("process " + std::to_string(child.pid()) + " on " +
                                           this_process("").host + ", job 4711 since 20"));
  }
  CHECK(seconds_since(begin) < 2);
  child.kill();
  child.wait();
  CHECK(parse_lock_holder(read_bytes(path))->pid == child.pid());
  {
    const RunLock lock(path, options);
    CHECK(parse_lock_holder(read_bytes(path))->pid == getpid());
    CHECK_THROWS_AS(RunLock(path, options), Error);
  }
  CHECK(read_bytes(path).empty());
}

TEST_CASE("a job waits for the one before it to end") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("lock");
  ChildProcess child([&](int output) { hold(path, {}, output); });
  REQUIRE(child.read() == 'h');
  std::thread killer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    child.kill();
  });
  const auto begin = Clock::now();
  const RunLock lock(path, {.wait_s = 20});
  CHECK(seconds_since(begin) > 0.2);
  CHECK(seconds_since(begin) < 10);
  killer.join();
}

TEST_CASE("a holder is believed dead only where that is certain") {
  const LockHolder self = this_process("");
  CHECK(may_be_alive(self));
  LockHolder other = self;
  other.started += 1;  // the process number was given to another
  CHECK_FALSE(may_be_alive(other));
  other = self;
  other.boot_id = "another";
  CHECK_FALSE(may_be_alive(other));
  other.host = "elsewhere";
  CHECK(may_be_alive(other));
  CHECK(parse_lock_holder(to_json(self)) == self);
  CHECK_FALSE(parse_lock_holder(to_json(self).substr(0, 20)));
  CHECK_FALSE(parse_lock_holder(""));
  CHECK_FALSE(parse_lock_holder("{\"host\": 1}"));
}

TEST_CASE("a lock that is a link is not written through") {
  const TemporaryDirectory directory;
  write_bytes(directory.file("precious"), "x");
  std::filesystem::create_symlink(directory.file("precious"), directory.file("lock"));
  CHECK_THROWS_AS(RunLock(directory.file("lock"), {}), Error);
  CHECK(read_bytes(directory.file("precious")) == "x");
}

}  // namespace
}  // namespace switchyard::test
