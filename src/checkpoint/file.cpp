#include "checkpoint/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace switchyard {
namespace {

std::string last_system_error() { return std::generic_category().message(errno); }

}  // namespace

File::File(std::string path, int flags, const char* verb)
    : path_(std::move(path)), descriptor_(open(path_.c_str(), flags | O_CLOEXEC, 0666)) {
  SY_REQUIRE(kStorage, descriptor_ >= 0, "cannot {} {}: {}", verb, path_, last_system_error());
}

File File::open_to_read(const std::string& path) { return File(path, O_RDONLY, "open"); }

File File::create(const std::string& path) {
  return File(path, O_WRONLY | O_CREAT | O_TRUNC, "create");
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

File::~File() {
  if (descriptor_ >= 0) close(descriptor_);
}

int64_t File::size() const {
  struct stat status = {};
  SY_REQUIRE(kStorage, fstat(descriptor_, &status) == 0, "cannot read {}: {}", path_,
             last_system_error());
  return status.st_size;
}

void File::read_at(int64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t count = pread(descriptor_, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    SY_REQUIRE(kStorage, count >= 0, "cannot read {} at byte {}: {}", path_, offset,
               last_system_error());
    SY_REQUIRE(kStorage, count > 0, "{} ends at byte {}, but {} more were expected", path_, offset,
               bytes.size());
    bytes = bytes.subspan(static_cast<size_t>(count));
    offset += count;
  }
}

void File::write_at(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    SY_REQUIRE(kStorage, count > 0, "cannot write {} at byte {}: {}; check the space on its disk",
               path_, offset, last_system_error());
    bytes = bytes.subspan(static_cast<size_t>(count));
    offset += count;
  }
}

void File::commit_as(const std::string& path) {
  SY_REQUIRE(kStorage, fsync(descriptor_) == 0, "cannot bring {} to the disk: {}", path_,
             last_system_error());
  SY_REQUIRE(kStorage, std::rename(path_.c_str(), path.c_str()) == 0, "cannot rename {} to {}: {}",
             path_, path, last_system_error());
  path_ = path;
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const File directory(parent.empty() ? "." : parent.string(), O_RDONLY | O_DIRECTORY, "open");
  // EINVAL: this file system cannot sync directories.
  SY_REQUIRE(kStorage, fsync(directory.descriptor_) == 0 || errno == EINVAL,
             "cannot bring directory {} to the disk: {}", directory.path_, last_system_error());
}

}  // namespace switchyard
