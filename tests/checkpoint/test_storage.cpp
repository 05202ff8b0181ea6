// Storage: what the system may do to a writer, and what it makes of it.
#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/run_directory.h"
#include "checkpoint/run_entries.h"
#include "checkpoint/storage.h"
#include "core/error.h"
#include "support/catch.h"
#include "support/temporary_directory.h"
#include "tiny_save.h"

namespace switchyard::test {
namespace {

constexpr RunDirectory::Options kQuick = {.lock_wait_s = 0};

// Storage in which every call goes through before(): a chance to fail it.
class TroubledStorage : public Storage {
 protected:
  enum class Call {
    kMake,
    kRename,
    kSyncDirectory,
    kRemove,
    kCreate,
    kReserve,
    kWrite,
    kSync,
    kClose
  };
  // errno, or 0 to let it pass. `what`: a path, or "descriptor N".
  virtual int before(Call call, const std::string& what) = 0;

  int system_make_directory(const char* path) override {
    return pass(Call::kMake, path) ? Storage::system_make_directory(path) : -1;
  }
  int system_rename(const char* from, const char* to) override {
    return pass(Call::kRename, from) ? Storage::system_rename(from, to) : -1;
  }
  int system_sync_directory(const char* path) override {
    return pass(Call::kSyncDirectory, path) ? Storage::system_sync_directory(path) : -1;
  }
  int system_remove_file(const char* path) override {
    return pass(Call::kRemove, path) ? Storage::system_remove_file(path) : -1;
  }
  int system_remove_directory(const char* path) override {
    return pass(Call::kRemove, path) ? Storage::system_remove_directory(path) : -1;
  }
  int system_create(const char* path) override {
    if (!pass(Call::kCreate, path)) return -1;
    const int descriptor = Storage::system_create(path);
    paths_[descriptor] = path;
    return descriptor;
  }
  int system_reserve(int descriptor, int64_t bytes) override {
    return pass(Call::kReserve, paths_[descriptor]) ? Storage::system_reserve(descriptor, bytes)
                                                    : -1;
  }
  ssize_t system_write(int descriptor, std::span<const std::byte> bytes, int64_t offset) override {
    return pass(Call::kWrite, paths_[descriptor]) ? Storage::system_write(descriptor, bytes, offset)
                                                  : -1;
  }
  int system_sync(int descriptor) override {
    return pass(Call::kSync, paths_[descriptor]) ? Storage::system_sync(descriptor) : -1;
  }
  int system_close(int descriptor) override {
    // Whatever it says, the descriptor is closed.
    const bool passes = pass(Call::kClose, paths_[descriptor]);
    const int result = Storage::system_close(descriptor);
    if (passes) return result;
    errno = EIO;
    return -1;
  }

 private:
  bool pass(Call call, const std::string& what) {
    const int error = before(call, what);
    errno = error;
    return error == 0;
  }

  std::map<int, std::string> paths_;
};

// Fails the n-th call, and notes which files were synced again after that failed.
class FailsOnce : public TroubledStorage {
 public:
  void fail_call(int64_t nth, int error) {
    calls_ = 0;
    nth_ = nth;
    error_ = error;
  }
  int64_t calls() const { return calls_; }
  bool failed() const { return nth_ > 0 && calls_ >= nth_; }
  bool synced_again() const { return synced_again_; }

 protected:
  int before(Call call, const std::string& what) override {
    const bool is_sync = call == Call::kSync || call == Call::kSyncDirectory;
    if (is_sync && unsynced_.count(what) != 0) synced_again_ = true;
    if (++calls_ != nth_) return 0;
    if (is_sync) unsynced_.insert(what);
    return error_;
  }

 private:
  int64_t calls_ = 0, nth_ = 0;
  int error_ = 0;
  std::set<std::string> unsynced_;
  bool synced_again_ = false;
};

TEST_CASE("a save in which any call fails is not acknowledged, and the one before it stays") {
  const int error = GENERATE(EIO, ENOSPC, EDQUOT);
  int64_t num_failed = 0;
  for (int64_t nth = 1;; ++nth) {
    INFO("call " << nth);
    const TemporaryDirectory directory;
    FailsOnce storage;
    RunDirectory run(storage, directory.file("run"), kQuick);
    save_tiny(storage, run, 0, 1);
    save_tiny(storage, run, 10, 2);
    storage.fail_call(nth, error);
    bool acknowledged = false;
    try {
      save_tiny(storage, run, 10, 3);  // replaces: every kind of call
      acknowledged = true;
    } catch (const Error& failure) {
      CHECK(failure.code() == ExitCode::kStorage);
      run.discard_save(10);
    }
    CHECK_FALSE(storage.synced_again());
    if (!storage.failed()) break;
    ++num_failed;
    const TinyFound found = newest_tiny(run);
    CHECK(found.step == 10);
    if (acknowledged) CHECK(found.content == 3);
    CHECK(entries_of(run.path(), RunEntryKind::kStaging).empty());
  }
  CHECK(num_failed > 30);
}

TEST_CASE("a step that is there because its sync failed is not acknowledged later") {
  const TemporaryDirectory directory;
  FailsOnce storage;
  RunDirectory run(storage, directory.file("run"), kQuick);
  save_tiny(storage, run, 0, 1);
  const Manifest manifest = write_tiny_files(storage, run, 10, 2);
  storage.fail_call(7, EIO);  // create, write, sync, close, sync of names, rename, sync of names
  CHECK_THROWS_AS(run.commit(manifest), Error);
  REQUIRE(newest_tiny(run) == TinyFound{10, 2});
  CHECK_THROWS_AS(save_tiny(storage, run, 10, 2), Error);
  CHECK_FALSE(storage.synced_again());
}

TEST_CASE("what may fail in a commit that is acknowledged: LATEST, and clearing away") {
  const TemporaryDirectory directory;
  FailsOnce storage;
  RunDirectory run(storage, directory.file("run"), kQuick);
  save_tiny(storage, run, 0, 1);
  storage.fail_call(0, 0);
  save_tiny(storage, run, 10, 2);
  const int64_t calls = storage.calls();
  int64_t acknowledged = 0;
  for (int64_t nth = 1; nth <= calls; ++nth) {
    const TemporaryDirectory other;
    FailsOnce fails;
    RunDirectory again(fails, other.file("run"), kQuick);
    save_tiny(fails, again, 0, 1);
    fails.fail_call(nth, EIO);
    try {
      save_tiny(fails, again, 10, 2);
      ++acknowledged;
    } catch (const Error&) {
    }
  }
  // Creation, writing, sync, close and renaming of LATEST.
  CHECK(acknowledged == 5);
}

// Takes few bytes at a time, is interrupted and puts off, at random.
class Reluctant : public TroubledStorage {
 protected:
  int before(Call call, const std::string&) override {
    const bool may_put_off = call == Call::kWrite;
    const int dice = static_cast<int>(random_() % 4);
    if (dice == 0 && call != Call::kClose) return EINTR;
    return dice == 1 && may_put_off ? EAGAIN : 0;
  }
  ssize_t system_write(int descriptor, std::span<const std::byte> bytes, int64_t offset) override {
    return TroubledStorage::system_write(
        descriptor, bytes.first(1 + random_() % std::min<size_t>(bytes.size(), 1500)), offset);
  }

 private:
  std::mt19937 random_{1};
};

TEST_CASE("short writes and interruptions change no byte of a file") {
  const TemporaryDirectory directory;
  Reluctant reluctant;
  RunDirectory run(reluctant, directory.file("run"), kQuick);
  std::string bytes(100'000, 'x');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * i % 251);
  replace_file(reluctant, directory.file("file"), bytes);
  CHECK(read_bytes(directory.file("file")) == bytes);
  CHECK(save_tiny(reluctant, run, 0, 1) == RunDirectory::Commit::kCommitted);
  CHECK(newest_tiny(run) == TinyFound{0, 1});
}

// Puts off for ever.
class Stubborn : public TroubledStorage {
 protected:
  int before(Call call, const std::string&) override { return call == Call::kWrite ? EAGAIN : 0; }
};

TEST_CASE("a write that is put off for ever fails") {
  const TemporaryDirectory directory;
  Stubborn storage;
  CHECK_THROWS_AS(replace_file(storage, directory.file("file"), "text"), Error);
  CHECK_FALSE(exists(directory.file("file")));
}

TEST_CASE("what failed to sync is not synced again") {
  const TemporaryDirectory directory;
  FailsOnce storage;
  OutputFile file(storage, directory.file("file"));
  storage.fail_call(1, EIO);
  CHECK_THROWS_AS(file.sync(), Error);
  CHECK_THROWS_AS(file.sync(), Error);
  CHECK_FALSE(storage.synced_again());
  storage.fail_call(1, EIO);
  CHECK_THROWS_AS(storage.sync_directory(directory.file(".")), Error);
  CHECK_THROWS_AS(storage.sync_directory(directory.file(".")), Error);
  CHECK_FALSE(storage.synced_again());
}

TEST_CASE("a full disk says what was needed and what is free") {
  const TemporaryDirectory directory;
  FailsOnce storage;
  OutputFile file(storage, directory.file("file"));
  storage.fail_call(1, ENOSPC);
  const std::string text(1234, 'x');
  CHECK_THROWS_WITH(file.append(std::as_bytes(std::span(text))),
                    contains_text("No space left on device: 1234 bytes needed, "));
  CHECK(free_bytes(directory.file(".")) > 0);
}

TEST_CASE("a file is created only where there is none, a link included") {
  const TemporaryDirectory directory;
  Storage storage;
  std::filesystem::create_symlink(directory.file("elsewhere"), directory.file("link"));
  CHECK_THROWS_AS(OutputFile(storage, directory.file("link")), Error);
  CHECK_FALSE(exists(directory.file("elsewhere")));
  write_bytes(directory.file("file"), "x");
  CHECK_THROWS_AS(OutputFile(storage, directory.file("file")), Error);
  CHECK(read_bytes(directory.file("file")) == "x");
}

}  // namespace
}  // namespace switchyard::test
