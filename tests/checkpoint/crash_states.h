// What may be on a disk after the power was lost, by the weakest reading of POSIX: of what was
// changed in a directory since its last sync, any part may be there; of what was written to a file
// since its last sync, nothing, the first half, all, or all with zeros in its second half. A sync
// of a file says nothing of its name, a sync of a directory nothing of what is in the files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/storage.h"

namespace switchyard::test {

struct FileOperation {
  enum class Kind {
    kMakeDirectory,
    kCreate,
    kWrite,
    kSync,
    kRename,
    kSyncDirectory,
    kRemove  // file or directory
  };

  Kind kind = Kind::kCreate;
  std::string path = {}, to = {};  // below the root; `to` of kRename
  int64_t offset = 0;              // of kWrite, as the next
  std::string bytes = {};
};

const char* name_of(FileOperation::Kind kind);

// Thrown where RecordingStorage is told to end the writer.
struct Killed {};

// Does what is asked, and records what it did.
class RecordingStorage : public Storage {
 public:
  explicit RecordingStorage(std::string root) : root_(std::move(root)) {}

  const std::vector<FileOperation>& trace() const { return trace_; }
  void refuse_to_create(std::string part) { refused_ = std::move(part); }  // ENOSPC
  // Where that is true of an operation that is due and the one before it.
  using IsTime = std::function<bool(const FileOperation& due, const FileOperation& before)>;
  void kill_when(IsTime is_time) { is_time_ = std::move(is_time); }

 protected:
  int system_make_directory(const char* path) override;
  int system_rename(const char* from, const char* to) override;
  int system_sync_directory(const char* path) override;
  int system_remove_file(const char* path) override;
  int system_remove_directory(const char* path) override;
  int system_create(const char* path) override;
  ssize_t system_write(int descriptor, std::span<const std::byte> bytes, int64_t offset) override;
  int system_sync(int descriptor) override;

 private:
  void be_killed(const FileOperation& due) const;
  int record(int result, FileOperation operation);
  std::string below_root(const std::string& path) const;

  std::string root_, refused_ = {};
  IsTime is_time_ = {};
  std::vector<FileOperation> trace_ = {};
  std::map<int, std::string> paths_ = {};  // of descriptors
};

// What files hold, by number: equal contents have the same.
class FileContents {
 public:
  size_t number_of(const std::string& bytes);
  const std::string& bytes_of(size_t number) const { return bytes_[number]; }

 private:
  std::vector<std::string> bytes_ = {};
  std::map<std::string, size_t> numbers_ = {};
};

// A disk to which a trace is applied, one operation after another.
class CrashDisk {
 public:
  // An empty directory, the root. What is in directories of names for which `is_unread` says so
  // tells no states apart.
  using IsUnread = std::function<bool(const std::string& name)>;
  CrashDisk(FileContents& contents, IsUnread is_unread)
      : contents_(contents), is_unread_(std::move(is_unread)), inodes_(1) {}

  // `idle`: a sync that does nothing.
  void apply(const FileOperation& operation, bool idle = false);

  // Every state that a crash now may leave, each once, by name. Equal states have equal names, on
  // all disks with the same FileContents.
  std::set<std::string> states();
  // Makes a state, in an empty directory.
  void make(const std::string& state, const std::string& directory) const;

 private:
  // Of a directory: `inode` has no longer the name `from`, and has the name `to` ("": none).
  struct Change {
    std::string from, to;
    int inode;
  };
  using Names = std::map<std::string, int>;
  struct Inode {
    bool is_directory = true;
    Names names = {}, durable_names = {};
    std::vector<Change> changes = {};  // not durable
    std::string bytes = {}, durable_bytes = {};
  };

  int find(const std::string& path) const;
  void change(const std::string& from, const std::string& to, int inode);
  static void change(Names& names, const Change& change);
  std::set<std::string> states_of(int inode);
  std::set<std::string> states_of_file(const Inode& file);
  size_t make_from(const std::string& state, size_t begin, const std::string& path) const;

  FileContents& contents_;
  IsUnread is_unread_;
  std::vector<Inode> inodes_;
};

}  // namespace switchyard::test
