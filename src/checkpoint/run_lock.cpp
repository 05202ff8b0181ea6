#include "checkpoint/run_lock.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <ctime>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>
#include <utility>

#include "checkpoint/strict_json.h"
#include "core/error.h"
#include "core/log.h"

namespace switchyard {
namespace {

using std::chrono::duration;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kMaxLockBytes = 4096;
constexpr milliseconds kBetweenTries{50};
// Longer than a file system needs to show one machine's write to the other.
constexpr milliseconds kToSettle{200};

std::string first_line_of(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

std::string name_of_host() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

std::string boot_id() { return first_line_of("/proc/sys/kernel/random/boot_id"); }

// When a process started, field 22 of its stat; 0 if there is none. The fields before it hold
// numbers and single letters, but for the name of the program, which ends at the last ')'.
int64_t start_of(int64_t pid) {
  const std::string line = first_line_of(fmt::format("/proc/{}/stat", pid));
  const size_t end_of_name = line.find_last_of(')');
  if (end_of_name == std::string::npos) return 0;
  std::istringstream fields(line.substr(end_of_name + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  int64_t start = 0;
  fields >> start;
  return start;
}

std::string describe(const std::optional<LockHolder>& holder) {
  if (!holder) return "a job that has not said who it is";
  return fmt::format("process {} on {}{} since {}", holder->pid, holder->host,
                     holder->job_id.empty() ? "" : ", job " + holder->job_id, holder->since);
}

bool has_no_locks(int error) {
  return error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP || error == EINVAL;
}

}  // namespace

LockHolder this_process(const std::string& job_id) {
  return {.host = name_of_host(),
          .pid = getpid(),
          .started = start_of(getpid()),
          .boot_id = boot_id(),
          .job_id = job_id,
          .since = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))};
}

std::string to_json(const LockHolder& holder) {
  const nlohmann::ordered_json json = {{"host", holder.host},       {"pid", holder.pid},
                                       {"started", holder.started}, {"boot_id", holder.boot_id},
                                       {"job_id", holder.job_id},   {"since", holder.since}};
  return json.dump() + "\n";
}

std::optional<LockHolder> parse_lock_holder(const std::string& text) {
  try {
    const nlohmann::json json = parse_strict_json(text, 1, "lock", "it");
    return LockHolder{.host = json.at("host"),
                      .pid = json.at("pid"),
                      .started = json.at("started"),
                      .boot_id = json.at("boot_id"),
                      .job_id = json.at("job_id"),
                      .since = json.at("since")};
  } catch (const Error&) {
  } catch (const nlohmann::json::exception&) {
  }
  return std::nullopt;
}

bool may_be_alive(const LockHolder& holder) {
  if (holder.host != name_of_host()) return true;
  if (holder.boot_id != boot_id()) return false;
  const int64_t started = start_of(holder.pid);
  return started != 0 && started == holder.started;
}

RunLock::RunLock(std::string path, const Options& options)
    : path_(std::move(path)),
      descriptor_{open(path_.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666)} {
  SY_REQUIRE(kStorage, descriptor_.value >= 0, "cannot open {} for writing: {}", path_,
             std::generic_category().message(errno));
  const auto end = steady_clock::now() + duration<double>(options.wait_s);
  bool told = false;
  while (!try_to_take(options)) {
    SY_REQUIRE(kLocked, steady_clock::now() < end,
               "{} is held by {}: only one job can work in a run directory", path_,
               describe(holder_));
    if (!std::exchange(told, true))
      spdlog::info("{} is held by {}: waiting up to {} s", path_, describe(holder_),
                   options.wait_s);
    std::this_thread::sleep_for(kBetweenTries);
  }
}

RunLock::~RunLock() {
  if (ftruncate(descriptor_.value, 0) != 0) spdlog::warn("cannot empty {}", path_);
}

RunLock::Descriptor::~Descriptor() {
  if (value >= 0) close(value);  // lets go of the system's lock
}

bool RunLock::try_to_take(const Options& options) {
  const LockHolder self = this_process(options.job_id);
  int error = ENOSYS;
  if (options.locks_of_system) {
    do {
      error = flock(descriptor_.value, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    } while (error == EINTR);
  }
  if (has_no_locks(error)) return try_to_take_by_content(self);
  SY_REQUIRE(kStorage, error == 0 || error == EWOULDBLOCK, "cannot lock {}: {}", path_,
             std::generic_category().message(error));
  holder_ = parse_lock_holder(read());
  if (error != 0) return false;
  if (holder_) spdlog::info("{} was held by {}, which is gone", path_, describe(holder_));
  if (!write(to_json(self)))  // a full disk must not keep the run from making room
    spdlog::warn("cannot write who holds it into {}: {}", path_,
                 std::generic_category().message(errno));
  return true;
}

bool RunLock::try_to_take_by_content(const LockHolder& self) {
  holder_ = parse_lock_holder(read());
  if (holder_ && may_be_alive(*holder_)) return false;
  SY_REQUIRE(kStorage, write(to_json(self)), "cannot write {}: {}", path_,
             std::generic_category().message(errno));
  std::this_thread::sleep_for(kToSettle);
  holder_ = parse_lock_holder(read());  // of two that write, the last one has it
  return holder_ == self;
}

std::string RunLock::read() const {
  std::string text(kMaxLockBytes, '\0');
  const ssize_t count = pread(descriptor_.value, text.data(), text.size(), 0);
  text.resize(count > 0 ? static_cast<size_t>(count) : 0);
  return text;
}

bool RunLock::write(const std::string& text) const {
  return ftruncate(descriptor_.value, 0) == 0 && pwrite(descriptor_.value, text.data(), text.size(),
                                                        0) == static_cast<ssize_t>(text.size());
}

}  // namespace switchyard
