#include "checkpoint/run_entries.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <system_error>
#include <tuple>

#include "core/error.h"

namespace switchyard {
namespace {

bool is_directory(const std::string& path) {
  struct stat status = {};
  return lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

std::vector<std::string> names_in(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(
      descriptor < 0 ? nullptr : fdopendir(descriptor), closedir);
  SY_REQUIRE(kStorage, directory != nullptr, "cannot read directory {}: {}", path,
             std::generic_category().message(errno));
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(directory.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
    errno = 0;
  }
  SY_REQUIRE(kStorage, errno == 0, "cannot read directory {}: {}", path,
             std::generic_category().message(errno));
  return names;
}

}  // namespace

bool exists(const std::string& path) {
  struct stat status = {};
  return lstat(path.c_str(), &status) == 0;
}

std::vector<RunEntry> entries_of(const std::string& run) {
  std::vector<RunEntry> entries;
  for (const std::string& name : names_in(run))
    if (const auto entry = parse_entry(name); entry && is_directory(join(run, name)))
      entries.push_back(*entry);
  std::sort(entries.begin(), entries.end(), [](const RunEntry& a, const RunEntry& b) {
    return std::tuple(a.step, a.attempt, a.kind) > std::tuple(b.step, b.attempt, b.kind);
  });
  return entries;
}

std::vector<RunEntry> entries_of(const std::string& run, RunEntryKind kind) {
  std::vector<RunEntry> entries = entries_of(run);
  std::erase_if(entries, [&](const RunEntry& entry) { return entry.kind != kind; });
  return entries;
}

void remove_tree(Storage& storage, const std::string& path) {
  std::vector<std::string> names = names_in(path);
  std::sort(names.begin(), names.end());
  std::stable_partition(names.begin(), names.end(),
                        [](const std::string& name) { return name != kManifestFile; });
  for (const std::string& name : names) {
    const std::string inner = join(path, name);
    if (is_directory(inner))
      remove_tree(storage, inner);
    else
      storage.remove_file(inner);
  }
  storage.remove_directory(path);
}

std::vector<int64_t> committed_steps_in(const std::string& run) {
  std::vector<int64_t> steps;
  for (const RunEntry& entry : entries_of(run, RunEntryKind::kStep)) steps.push_back(entry.step);
  return steps;
}

}  // namespace switchyard
