#include "checkpoint/storage.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <functional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "checkpoint/run_names.h"
#include "core/error.h"
#include "core/fault.h"

namespace switchyard {
namespace {

// How often a write that the system puts off (EAGAIN) is tried, a millisecond apart.
constexpr int kMaxTries = 1000;

std::string reason_of(int error, const std::string& path, int64_t bytes_needed) {
  const std::string reason = std::generic_category().message(error);
  if (error != ENOSPC && error != EDQUOT) return reason;
  const int64_t free = free_bytes(directory_of(path));
  if (bytes_needed == 0) return fmt::format("{}: {} bytes free", reason, free);
  return fmt::format("{}: {} bytes needed, {} free", reason, bytes_needed, free);
}

Fault point(const char* operation, const std::string& word, const char* when = "") {
  return fault_point(fmt::format("checkpoint.{}.{}{}", word, operation, when).c_str());
}

// Names of directories that users choose may have dots.
std::string word_for_directory(const std::string& path) {
  const std::string word = word_for(path);
  return word == "file" ? "directory" : word;
}

// One operation: between its two fault points, again while it is interrupted. Returns 0 or errno.
int attempt(const char* operation, const std::string& word, const std::function<int()>& call) {
  if (const int error = errno_of(point(operation, word))) return error;
  while (call() < 0)
    if (errno != EINTR) return errno;
  return errno_of(point(operation, word, ".done"));
}

void require(int error, const char* what, const std::string& path, int64_t bytes_needed = 0) {
  SY_REQUIRE(kStorage, error == 0, "cannot {} {}: {}", what, path,
             reason_of(error, path, bytes_needed));
}

}  // namespace

void Storage::make_directory(const std::string& path) {
  require(attempt("make", word_for_directory(path),
                  [&] { return system_make_directory(path.c_str()); }),
          "make directory", path);
}

void Storage::rename(const std::string& from, const std::string& to) {
  require(
      attempt("rename", word_for(from), [&] { return system_rename(from.c_str(), to.c_str()); }),
      fmt::format("rename to {}", to).c_str(), from);
}

void Storage::sync_directory(const std::string& path) {
  {
    const std::lock_guard lock(mutex_);
    SY_REQUIRE(kStorage, unsynced_.count(path) == 0,
               "cannot bring {} to the disk: an earlier try failed, and the system may have "
               "forgotten what it could not write",
               path);
  }
  const int error = attempt("sync_directory", word_for_directory(path),
                            [&] { return system_sync_directory(path.c_str()); });
  if (error == EINVAL) return;  // this file system cannot sync directories
  if (error != 0) {
    const std::lock_guard lock(mutex_);
    unsynced_.insert(path);
  }
  require(error, "bring to the disk directory", path);
}

void Storage::remove_file(const std::string& path) {
  require(attempt("remove", word_for(path), [&] { return system_remove_file(path.c_str()); }),
          "remove", path);
}

void Storage::remove_directory(const std::string& path) {
  require(attempt("remove", word_for_directory(path),
                  [&] { return system_remove_directory(path.c_str()); }),
          "remove directory", path);
}

// ---- OutputFile ----

OutputFile::OutputFile(Storage& storage, std::string path)
    : storage_(storage), path_(std::move(path)) {
  require(attempt("create", word_for(path_),
                  [&] { return descriptor_ = storage_.system_create(path_.c_str()); }),
          "create", path_);
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) storage_.system_close(descriptor_);
}

void OutputFile::reserve(int64_t bytes) {
  if (bytes == 0) return;
  const int error = attempt("reserve", word_for(path_),
                            [&] { return storage_.system_reserve(descriptor_, bytes); });
  if (error == EOPNOTSUPP || error == ENOSYS) return;
  require(error, "reserve space for", path_, bytes);
}

void OutputFile::append(std::span<const std::byte> bytes) {
  write_at(end_, bytes);
  end_ += static_cast<int64_t>(bytes.size());
}

void OutputFile::write_at(int64_t offset, std::span<const std::byte> bytes) {
  const Fault fault = point("write", word_for(path_));
  require(errno_of(fault), "write", path_, static_cast<int64_t>(bytes.size()));
  std::vector<std::byte> spoiled;
  if (fault == Fault::kFlip) {
    spoiled.assign(bytes.begin(), bytes.end());
    spoil(fault, spoiled);
    bytes = spoiled;
  }
  size_t limit = fault == Fault::kShort ? (bytes.size() + 1) / 2 : bytes.size();
  int tries = 0;
  while (!bytes.empty()) {
    const ssize_t count = storage_.system_write(descriptor_, bytes.first(limit), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN && ++tries < kMaxTries) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    require(count < 0 ? errno : 0, fmt::format("write at byte {} of", offset).c_str(), path_,
            static_cast<int64_t>(bytes.size()));
    SY_REQUIRE(kStorage, count > 0, "cannot write {}: no byte was taken", path_);
    bytes = bytes.subspan(static_cast<size_t>(count));
    offset += count;
    limit = bytes.size();
  }
  require(errno_of(point("write", word_for(path_), ".done")), "write", path_);
}

void OutputFile::sync() {
  SY_REQUIRE(kStorage, !sync_failed_, "{} failed to reach the disk before", path_);
  sync_failed_ = true;  // unless the next line returns
  require(attempt("sync", word_for(path_), [&] { return storage_.system_sync(descriptor_); }),
          "bring to the disk", path_);
  sync_failed_ = false;
}

void OutputFile::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  require(attempt("close", word_for(path_),
                  [&] {
                    const int result = storage_.system_close(descriptor);
                    return result < 0 && errno == EINTR ? 0 : result;  // on Linux it is closed
                  }),
          "close", path_);
}

void write_file(Storage& storage, const std::string& path, const std::string& text) {
  const std::string temporary = path + ".tmp";
  if (faccessat(AT_FDCWD, temporary.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0)
    storage.remove_file(temporary);  // a crash left it
  OutputFile file(storage, temporary);
  file.append(std::as_bytes(std::span(text)));
  file.sync();
  file.close();
  storage.rename(temporary, path);
}

void replace_file(Storage& storage, const std::string& path, const std::string& text) {
  write_file(storage, path, text);
  storage.sync_directory(directory_of(path));
}

int64_t free_bytes(const std::string& directory) {
  if (fault_point("checkpoint.free_bytes") == Fault::kEnospc) return 0;
  struct statvfs disk = {};
  SY_REQUIRE(kStorage, statvfs(directory.c_str(), &disk) == 0, "cannot examine the disk of {}: {}",
             directory, std::generic_category().message(errno));
  return static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
}

// ---- The system ----

int Storage::system_make_directory(const char* path) { return mkdir(path, 0777); }
int Storage::system_rename(const char* from, const char* to) { return std::rename(from, to); }

int Storage::system_sync_directory(const char* path) {
  const int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return -1;
  const int result = fsync(descriptor);
  const int error = errno;
  close(descriptor);
  errno = error;
  return result;
}

int Storage::system_remove_file(const char* path) { return unlink(path); }
int Storage::system_remove_directory(const char* path) { return rmdir(path); }

int Storage::system_create(const char* path) {
  return open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
}

int Storage::system_reserve(int descriptor, int64_t bytes) {
  return fallocate(descriptor, FALLOC_FL_KEEP_SIZE, 0, bytes);
}

ssize_t Storage::system_write(int descriptor, std::span<const std::byte> bytes, int64_t offset) {
  return pwrite(descriptor, bytes.data(), bytes.size(), offset);
}

int Storage::system_sync(int descriptor) { return fdatasync(descriptor); }
int Storage::system_close(int descriptor) { return close(descriptor); }

}  // namespace switchyard
