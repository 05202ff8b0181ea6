#include "nccl/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "engine/engine.h"

namespace cuda_emulator::nccl {

SharedMemory::SharedMemory(SharedMemoryName name, int fd, size_t bytes)
    : name_(name), fd_(fd), data_(nullptr), bytes_(bytes) {
  if (bytes == 0) return;
  // All who open it know its size, and whoever comes first sets it.
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0)
    fail("%zu bytes of shared memory: %s", bytes, std::strerror(errno));
  data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data_ == MAP_FAILED) fail("mapping shared memory: %s", std::strerror(errno));
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : name_(other.name_),
      fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(other.bytes_) {}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
  if (fd_ >= 0) close(fd_);
}

SharedMemory SharedMemory::create(size_t bytes) {
  const int fd = memfd_create("cuda-emulator", MFD_CLOEXEC);
  if (fd < 0) fail("no file for shared memory: %s", std::strerror(errno));
  return {{getpid(), fd}, fd, bytes};
}

std::optional<SharedMemory> SharedMemory::open(SharedMemoryName name, size_t bytes) {
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%d/fd/%d", name.pid, name.fd);
  const int fd = ::open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  SharedMemory memory(name, fd, bytes);
  close(std::exchange(memory.fd_, -1));
  return memory;
}

}  // namespace cuda_emulator::nccl
