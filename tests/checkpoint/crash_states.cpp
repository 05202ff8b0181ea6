#include "crash_states.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "checkpoint/run_names.h"
#include "core/error.h"
#include "support/temporary_directory.h"

namespace switchyard::test {
namespace {

using Kind = FileOperation::Kind;

constexpr size_t kMaxChanges = 12;  // of one directory between two syncs: 4096 parts of them

}  // namespace

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kMakeDirectory:
      return "make";
    case Kind::kCreate:
      return "create";
    case Kind::kWrite:
      return "write";
    case Kind::kSync:
      return "sync";
    case Kind::kRename:
      return "rename";
    case Kind::kSyncDirectory:
      return "sync_directory";
    case Kind::kRemove:
      return "remove";
  }
  return "";
}

// ---- RecordingStorage ----

void RecordingStorage::be_killed(const FileOperation& due) const {
  if (is_time_ && is_time_(due, trace_.back())) throw Killed();
}

int RecordingStorage::record(int result, FileOperation operation) {
  if (result >= 0) trace_.push_back(std::move(operation));
  return result;
}

std::string RecordingStorage::below_root(const std::string& path) const {
  if (path == root_) return "";
  SY_CHECK(path.starts_with(root_ + "/"), "{} is not below {}", path, root_);
  return path.substr(root_.size() + 1);
}

int RecordingStorage::system_make_directory(const char* path) {
  return record(Storage::system_make_directory(path),
                {.kind = Kind::kMakeDirectory, .path = below_root(path)});
}

int RecordingStorage::system_rename(const char* from, const char* to) {
  const FileOperation due{.kind = Kind::kRename, .path = below_root(from), .to = below_root(to)};
  be_killed(due);
  return record(Storage::system_rename(from, to), due);
}

int RecordingStorage::system_sync_directory(const char* path) {
  const FileOperation due{.kind = Kind::kSyncDirectory, .path = below_root(path)};
  be_killed(due);
  return record(Storage::system_sync_directory(path), due);
}

int RecordingStorage::system_remove_file(const char* path) {
  return record(Storage::system_remove_file(path),
                {.kind = Kind::kRemove, .path = below_root(path)});
}

int RecordingStorage::system_remove_directory(const char* path) {
  return record(Storage::system_remove_directory(path),
                {.kind = Kind::kRemove, .path = below_root(path)});
}

int RecordingStorage::system_create(const char* path) {
  if (!refused_.empty() && std::string(path).find(refused_) != std::string::npos) {
    errno = ENOSPC;
    return -1;
  }
  const int descriptor = Storage::system_create(path);
  paths_[descriptor] = below_root(path);
  return record(descriptor, {.kind = Kind::kCreate, .path = below_root(path)});
}

ssize_t RecordingStorage::system_write(int descriptor, std::span<const std::byte> bytes,
                                       int64_t offset) {
  const ssize_t count = Storage::system_write(descriptor, bytes, offset);
  if (count > 0)
    record(0, {.kind = Kind::kWrite,
               .path = paths_.at(descriptor),
               .offset = offset,
               .bytes = {reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(count)}});
  return count;
}

int RecordingStorage::system_sync(int descriptor) {
  return record(Storage::system_sync(descriptor),
                {.kind = Kind::kSync, .path = paths_.at(descriptor)});
}

// ---- CrashDisk ----

size_t FileContents::number_of(const std::string& bytes) {
  const auto [number, is_new] = numbers_.try_emplace(bytes, bytes_.size());
  if (is_new) bytes_.push_back(bytes);
  return number->second;
}

int CrashDisk::find(const std::string& path) const {
  int inode = 0;
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    inode = inodes_[inode].names.at(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return inode;
}

void CrashDisk::change(Names& names, const Change& change) {
  const auto old = names.find(change.from);
  if (old != names.end() && old->second == change.inode) names.erase(old);
  if (!change.to.empty()) names[change.to] = change.inode;
}

void CrashDisk::change(const std::string& from, const std::string& to, int inode) {
  const std::string& path = from.empty() ? to : from;
  SY_CHECK(from.empty() || to.empty() || directory_of(from) == directory_of(to),
           "{} moves between directories", from);
  const size_t slash = path.find_last_of('/');
  Inode& directory = inodes_[find(slash == std::string::npos ? "" : path.substr(0, slash))];
  directory.changes.push_back({last_part_of(from), last_part_of(to), inode});
  change(directory.names, directory.changes.back());
}

void CrashDisk::apply(const FileOperation& operation, bool idle) {
  if (idle) return;
  const std::string& path = operation.path;
  switch (operation.kind) {
    case Kind::kMakeDirectory:
    case Kind::kCreate:
      inodes_.push_back({.is_directory = operation.kind == Kind::kMakeDirectory});
      return change("", path, static_cast<int>(inodes_.size()) - 1);
    case Kind::kRename:
      return change(path, operation.to, find(path));
    case Kind::kRemove:
      return change(path, "", find(path));
    case Kind::kWrite: {
      std::string& bytes = inodes_[find(path)].bytes;
      const auto begin = static_cast<size_t>(operation.offset);
      bytes.resize(std::max(bytes.size(), begin + operation.bytes.size()));
      bytes.replace(begin, operation.bytes.size(), operation.bytes);
      return;
    }
    case Kind::kSync: {
      Inode& file = inodes_[find(path)];
      file.durable_bytes = file.bytes;
      return;
    }
    case Kind::kSyncDirectory: {
      Inode& directory = inodes_[find(path)];
      directory.durable_names = directory.names;
      directory.changes.clear();
      return;
    }
  }
}

std::set<std::string> CrashDisk::states() { return states_of(0); }

// "#3": the third content.
std::set<std::string> CrashDisk::states_of_file(const Inode& file) {
  const size_t half = (file.durable_bytes.size() + file.bytes.size()) / 2;
  std::string holes = file.bytes;
  std::fill(holes.begin() + static_cast<ptrdiff_t>(half), holes.end(), '\0');
  std::set<std::string> states;
  for (const std::string& bytes :
       {file.durable_bytes, file.bytes.substr(0, half), holes, file.bytes}) {
    if (file.bytes == file.durable_bytes && bytes != file.bytes) continue;
    states.insert("#" + std::to_string(contents_.number_of(bytes)) + ",");
  }
  return states;
}

// "{name>#3,other>{...},}": names with what they are of.
std::set<std::string> CrashDisk::states_of(int inode) {
  const Inode directory = inodes_[inode];
  if (!directory.is_directory) return states_of_file(directory);
  SY_CHECK(directory.changes.size() <= kMaxChanges, "too many changes between two syncs");
  std::set<Names> choices;
  for (size_t part = 0; part < size_t{1} << directory.changes.size(); ++part) {
    Names names = directory.durable_names;
    for (size_t i = 0; i < directory.changes.size(); ++i)
      if ((part >> i & 1) != 0) change(names, directory.changes[i]);
    choices.insert(std::move(names));
  }
  std::set<std::string> states;
  for (const Names& names : choices) {
    std::vector<std::string> begun = {"{"};
    for (const auto& [name, child] : names) {
      const std::set<std::string> of_child =
          is_unread_(name) ? std::set<std::string>{"{},"} : states_of(child);
      std::vector<std::string> longer;
      for (const std::string& front : begun)
        for (const std::string& state : of_child) longer.push_back(front + name + ">" + state);
      begun = std::move(longer);
    }
    for (const std::string& state : begun) states.insert(state + "},");
  }
  return states;
}

void CrashDisk::make(const std::string& state, const std::string& directory) const {
  make_from(state, 0, directory);
}

// Makes what is described from `begin` on; returns where that ends.
size_t CrashDisk::make_from(const std::string& state, size_t begin, const std::string& path) const {
  if (state[begin] == '#') {
    write_bytes(path, contents_.bytes_of(std::stoul(state.substr(begin + 1))));
  } else {
    std::filesystem::create_directory(path);
    ++begin;
    while (state[begin] != '}') {
      const size_t end = state.find('>', begin);
      begin = make_from(state, end + 1, join(path, state.substr(begin, end - begin)));
    }
  }
  return state.find(',', begin) + 1;
}

}  // namespace switchyard::test
