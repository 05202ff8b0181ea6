#include "checkpoint/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace switchyard {
namespace {

std::string last_system_error() { return std::generic_category().message(errno); }

struct stat status_of(int descriptor, const std::string& path) {
  struct stat status = {};
  SY_REQUIRE(kStorage, fstat(descriptor, &status) == 0, "cannot read {}: {}", path,
             last_system_error());
  return status;
}

}  // namespace

File::File(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {
  SY_REQUIRE(kStorage, descriptor_ >= 0, "cannot open {}: {}", path_, last_system_error());
}

File File::open_to_read(const std::string& path) {
  return File(path, open(path.c_str(), O_RDONLY | O_CLOEXEC));
}

File File::open_to_change(const std::string& path) {
  return File(path, open(path.c_str(), O_RDWR | O_CLOEXEC));
}

File File::open_or_create(const std::string& path) {
  return File(path, open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
}

File File::open_of_checkpoint(const std::string& path) {
  // Not blocking: opening a pipe would wait for its writer.
  const int descriptor = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  SY_REQUIRE(kData, descriptor >= 0 || errno != ENOENT, "{}: the file is missing", path);
  SY_REQUIRE(kData, descriptor >= 0 || errno != ELOOP, "{}: a symbolic link found, expected a file",
             path);
  File file(path, descriptor);
  SY_REQUIRE(kData, S_ISREG(status_of(descriptor, path).st_mode),
             "{}: something else found, expected a file", path);
  return file;
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) close(descriptor_);
}

int64_t File::size() const { return status_of(descriptor_, path_).st_size; }

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

void File::cut_at(int64_t size) {
  SY_REQUIRE(kStorage, ftruncate(descriptor_, size) == 0, "cannot cut {} at byte {}: {}", path_,
             size, last_system_error());
}

void File::sync() {
  SY_REQUIRE(kStorage, fsync(descriptor_) == 0, "cannot bring {} to the disk: {}", path_,
             last_system_error());
}

std::string read_file_of_checkpoint(const std::string& path, int64_t max_bytes) {
  const File file = File::open_of_checkpoint(path);
  const int64_t bytes = file.size();
  SY_REQUIRE(kData, bytes <= max_bytes, "{}: {} bytes found, expected at most {}", path, bytes,
             max_bytes);
  std::string text(static_cast<size_t>(bytes), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace switchyard
