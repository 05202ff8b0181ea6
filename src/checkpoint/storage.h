// Storage: every change that the writer of checkpoints makes to a file system. It is a class so
// that tests can stand between the writer and the system: record what it asks for, in order, and
// make calls fail. What is changed is durable after the sync that covers it and not before: sync()
// of an OutputFile for what is in it, sync_directory() for which names there are.
//
// Errors (kStorage) name the operation, the path and the reason; where the disk is full, also the
// bytes needed and those free. Interrupted calls and short writes go on, and so do writes that the
// system puts off, for a while. What failed to sync is never synced again: the system forgets what
// it could not write, and a second try would succeed.
// Before and after each operation is a fault point, "checkpoint.shard.sync" and
// "checkpoint.shard.sync.done" (word_for() in run_names.h).
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <span>
#include <string>

namespace switchyard {

class Storage {
 public:
  Storage() = default;
  virtual ~Storage() = default;
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void make_directory(const std::string& path);  // there may be none yet
  void rename(const std::string& from, const std::string& to);
  void sync_directory(const std::string& path);
  void remove_file(const std::string& path);  // or symbolic link
  void remove_directory(const std::string& path);

 protected:
  // The system calls, with their results and errno.
  virtual int system_make_directory(const char* path);
  virtual int system_rename(const char* from, const char* to);
  virtual int system_sync_directory(const char* path);
  virtual int system_remove_file(const char* path);
  virtual int system_remove_directory(const char* path);
  virtual int system_create(const char* path);  // returns a descriptor
  virtual int system_reserve(int descriptor, int64_t bytes);
  virtual ssize_t system_write(int descriptor, std::span<const std::byte> bytes, int64_t offset);
  virtual int system_sync(int descriptor);
  virtual int system_close(int descriptor);

 private:
  friend class OutputFile;

  std::mutex mutex_;
  std::set<std::string> unsynced_;  // directories whose sync failed
};

// A new file, written through Storage. Without close() nothing says that it was written.
class OutputFile {
 public:
  // There may be no such file yet; a symbolic link is not followed.
  OutputFile(Storage& storage, std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Takes the space for a file of so many bytes, so that a full disk is noticed now; where the file
  // system cannot, nothing.
  void reserve(int64_t bytes);
  void append(std::span<const std::byte> bytes);
  void write_at(int64_t offset, std::span<const std::byte> bytes);
  void sync();
  void close();

 private:
  Storage& storage_;
  std::string path_;
  int descriptor_ = -1;
  int64_t end_ = 0;  // of what was appended
  bool sync_failed_ = false;
};

// Makes `path` a file of exactly `text`, in place of what was there: after a power loss, too, it is
// the old file or the new, and the new one once its directory is synced. Leaves nothing behind when
// it fails but, maybe, `path`.tmp.
void write_file(Storage& storage, const std::string& path, const std::string& text);
// write_file(), and the new file is there for good.
void replace_file(Storage& storage, const std::string& path, const std::string& text);

// What an ordinary user may still write to the file system of a directory. A fault point,
// "checkpoint.free_bytes".
int64_t free_bytes(const std::string& directory);

}  // namespace switchyard
