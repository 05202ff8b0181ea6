// RunLock: one job at a time works in a run directory. The lock is the system's, on RUN/lock: it
// holds across the machines of a network file system, and goes when its holder ends, however it
// ends. What is in the file names the holder to people; where the file system has no locks, it is
// all there is: then a holder on this machine that is gone is noticed, one on another machine is
// believed until it lets go.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace switchyard {

// Who holds a lock: what is in the file.
struct LockHolder {
  std::string host = {};
  int64_t pid = 0;
  int64_t started = 0;       // of the process, in ticks since the machine did
  std::string boot_id = {};  // of the machine, since it started
  std::string job_id = {};   // of the scheduler; may be empty
  std::string since = {};    // UTC, ISO 8601

  bool operator==(const LockHolder&) const = default;
};

LockHolder this_process(const std::string& job_id);
std::string to_json(const LockHolder& holder);
// Nothing for a file that is empty or does not say who: its writer let go, or died writing.
std::optional<LockHolder> parse_lock_holder(const std::string& text);
// False only if that is certain.
bool may_be_alive(const LockHolder& holder);

class RunLock {
 public:
  struct Options {
    double wait_s = 10;  // for a job that is ending to let go
    std::string job_id = {};
    bool locks_of_system = true;  // false: as if the file system had none
  };

  // Errors: kLocked, naming the holder; kStorage if `path` cannot be written.
  RunLock(std::string path, const Options& options);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  // Whether it is ours now; if not, `holder_` is who has it, where that is known.
  bool try_to_take(const Options& options);
  bool try_to_take_by_content(const LockHolder& self);
  std::string read() const;
  bool write(const std::string& text) const;

  struct Descriptor {
    ~Descriptor();
    int value;
  };

  std::string path_;
  Descriptor descriptor_;
  std::optional<LockHolder> holder_ = {};
};

}  // namespace switchyard
